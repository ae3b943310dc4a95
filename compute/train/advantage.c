#include "compute/train/advantage.h"

#include <math.h>

double mean_of(const double *x, uint32_t n)
{
    double sum = 0;
    for (uint32_t i = 0; i < n; i++)
        sum += x[i];
    return n ? sum / n : 0;
}

double standard_deviation(const double *x, uint32_t n)
{
    if (n < 2)
        return 0;
    double mean = mean_of(x, n), sum = 0;
    for (uint32_t i = 0; i < n; i++)
        sum += (x[i] - mean) * (x[i] - mean);
    return sqrt(sum / (n - 1));
}

void advantages_of(const double *rewards, uint32_t groups, uint32_t size, enum scale_rewards scale, double eps,
                   double *advantage, double *group_std)
{
    double batch = standard_deviation(rewards, groups * size);
    for (uint32_t g = 0; g < groups; g++) {
        const double *r = rewards + (size_t)g * size;
        double mean = mean_of(r, size), std = standard_deviation(r, size);
        double scale_by = scale == SCALE_GROUP ? std + eps : scale == SCALE_BATCH ? batch + eps : 1;
        for (uint32_t i = 0; i < size; i++)
            advantage[(size_t)g * size + i] = (r[i] - mean) / scale_by;
        if (group_std)
            group_std[g] = std;
    }
}
