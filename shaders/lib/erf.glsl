// The error function to about one unit in the last place: x + x * q(x^2) near 0, 1 - exp(polynomial of |x|) outside
// (minimax fits; checked against the C library over all of [-6, 6] in tests/kernels/case_elementwise.c).
#ifndef ERF_GLSL
#define ERF_GLSL

float erf_inside(float x, float s)
{
    float r = -5.96761703e-4;
    r = r * s + 4.99119423e-3;
    r = r * s - 2.67681349e-2;
    r = r * s + 1.12819925e-1;
    r = r * s - 3.76125336e-1;
    r = r * s + 1.28379166e-1;
    return r * x + x;
}

float erf_outside(float t, float s)
{
    float r = -1.72853470e-5 * t + 3.83197126e-4;
    float u = -3.88396438e-3 * t + 2.42546219e-2;
    r = r * s + u;
    r = r * t - 1.06777877e-1;
    r = r * t - 6.34846687e-1;
    r = r * t - 1.28717512e-1;
    r = r * t - t;
    return 1.0 - exp(r);
}

float erf(float x)
{
    float t = min(abs(x), 4.0); // erf(4) is 1 in float
    float s = t * t;
    return t > 0.927734375 ? (x < 0 ? -erf_outside(t, s) : erf_outside(t, s)) : erf_inside(x, s);
}

#endif
