#include "compute/image/decode.h"

#include "compute/base/check.h"
#include "compute/image/formats.h"

#include <string.h>

// A progressive JPEG may ask for any number of passes over the picture ("scan bomb"). Encoders use about 10.
enum { MAX_SCANS = 100 };
static const uint64_t max_scanned_pixels = (uint64_t)1 << 30;

const struct image_limits image_default_limits = {.bytes = 20u << 20, .side = 16384, .pixels = 40000000};

enum image_format image_sniff(const uint8_t *bytes, size_t count)
{
    if (count >= 3 && memcmp(bytes, "\xff\xd8\xff", 3) == 0)
        return IMAGE_JPEG;
    if (count >= 8 && memcmp(bytes, "\x89PNG\r\n\x1a\n", 8) == 0)
        return IMAGE_PNG;
    if (count >= 12 && memcmp(bytes, "RIFF", 4) == 0 && memcmp(bytes + 8, "WEBP", 4) == 0)
        return IMAGE_WEBP;
    return IMAGE_UNKNOWN;
}

const char *image_format_name(enum image_format format)
{
    static const char *const names[] = {"unknown", "JPEG", "PNG", "WebP"};
    return names[format];
}

const char *image_format_mime(enum image_format format)
{
    static const char *const names[] = {"application/octet-stream", "image/jpeg", "image/png", "image/webp"};
    return names[format];
}

bool image_format_built(enum image_format format)
{
#ifdef VIREO_HAVE_WEBP
    return format != IMAGE_UNKNOWN;
#else
    return format == IMAGE_JPEG || format == IMAGE_PNG;
#endif
}

bool image_damaged(struct vireo_error *err, enum image_format format, const char *what)
{
    return vireo_fail_kind(err, VIREO_INVALID, "image_parse_error", NULL, "The %s image is %s.",
                           image_format_name(format), what);
}

int image_exif_orientation(const uint8_t *tiff, size_t count)
{
    if (count < 8)
        return 1;
    bool big = tiff[0] == 'M' && tiff[1] == 'M';
    if (!big && !(tiff[0] == 'I' && tiff[1] == 'I'))
        return 1;
#define U16(at) ((uint32_t)(big ? tiff[at] << 8 | tiff[(at) + 1] : tiff[(at) + 1] << 8 | tiff[at]))
#define U32(at) (big ? U16(at) << 16 | U16((at) + 2) : U16((at) + 2) << 16 | U16(at))
    size_t at = U32(4);
    if (U16(2) != 42 || at > count - 2)
        return 1;
    size_t entries = U16(at);
    at += 2;
    for (size_t i = 0; i < entries && count - at >= 12; i++, at += 12) {
        // SHORT (3) with one value stands in the first two bytes of the value field; some writers use LONG (4).
        if (U16(at) != 0x0112)
            continue;
        uint32_t type = U16(at + 2), value = type == 3 ? U16(at + 8) : type == 4 ? U32(at + 8) : 0;
        return value >= 1 && value <= 8 ? (int)value : 1;
    }
#undef U16
#undef U32
    return 1;
}

static bool read_header(const uint8_t *bytes, size_t count, const struct image_limits *limits,
                        struct image_header *header, enum image_format *format, struct vireo_error *err)
{
    if (count == 0)
        return vireo_fail_kind(err, VIREO_INVALID, "empty_image_file", NULL, "The image is empty.");
    if (count > limits->bytes)
        return vireo_fail_kind(err, VIREO_TOO_LARGE, "image_file_too_large", NULL,
                               "The image file has %zu bytes, the limit is %zu.", count, limits->bytes);
    *format = image_sniff(bytes, count);
    if (*format == IMAGE_UNKNOWN)
        return vireo_fail_kind(err, VIREO_INVALID, "invalid_image_format", NULL,
                               "The image is not one of the supported formats: JPEG, PNG%s.",
                               image_format_built(IMAGE_WEBP) ? ", WebP" : "");
    if (!image_format_built(*format))
        return vireo_fail_kind(err, VIREO_UNSUPPORTED, "invalid_image_format", NULL,
                               "This build cannot decode %s images; use JPEG or PNG.", image_format_name(*format));
    *header = (struct image_header){.orientation = 1, .scans = 1};
    bool (*const walk[])(const uint8_t *, size_t, struct image_header *, struct vireo_error *) = {
        [IMAGE_JPEG] = image_jpeg_header, [IMAGE_PNG] = image_png_header, [IMAGE_WEBP] = image_webp_header};
    if (!walk[*format](bytes, count, header, err))
        return false;
    uint32_t longest = VIREO_MAX(header->width, header->height), side = VIREO_MIN(limits->side, 65535);
    uint64_t pixels = (uint64_t)header->width * header->height;
    if (pixels == 0)
        return image_damaged(err, *format, "without a single pixel");
    if (longest > side)
        return vireo_fail_kind(err, VIREO_TOO_LARGE, "image_too_large", NULL,
                               "The image has %u x %u pixels; the longest side may have %u.", header->width,
                               header->height, side);
    if (pixels > limits->pixels)
        return vireo_fail_kind(err, VIREO_TOO_LARGE, "image_too_large", NULL,
                               "The image has %u x %u = %llu pixels; the limit is %llu.", header->width, header->height,
                               (unsigned long long)pixels, (unsigned long long)limits->pixels);
    if (header->scans > MAX_SCANS || header->scans * pixels > max_scanned_pixels)
        return vireo_fail_kind(err, VIREO_TOO_LARGE, "image_too_large", NULL,
                               "The JPEG image has %u scans, which is too many for its size.", header->scans);
    return true;
}

bool image_probe(const uint8_t *bytes, size_t count, const struct image_limits *limits, struct image_info *out,
                 struct vireo_error *err)
{
    struct image_header header = {0};
    enum image_format format = IMAGE_UNKNOWN;
    if (!read_header(bytes, count, limits ? limits : &image_default_limits, &header, &format, err))
        return false;
    bool swaps = header.orientation >= 5;
    *out = (struct image_info){.format = format,
                               .width = swaps ? header.height : header.width,
                               .height = swaps ? header.width : header.height,
                               .orientation = header.orientation};
    return true;
}

bool image_decode(const uint8_t *bytes, size_t count, const struct image_limits *limits, struct image *out,
                  struct vireo_error *err)
{
    struct image_header header = {0};
    enum image_format format = IMAGE_UNKNOWN;
    if (!read_header(bytes, count, limits ? limits : &image_default_limits, &header, &format, err))
        return false;
    bool (*const decode[])(const uint8_t *, size_t, const struct image_header *, struct image *,
                           struct vireo_error *) = {
        [IMAGE_JPEG] = image_jpeg_pixels, [IMAGE_PNG] = image_png_pixels, [IMAGE_WEBP] = image_webp_pixels};
    struct image im = {0};
    if (!decode[format](bytes, count, &header, &im, err))
        return false;
    if (!image_orient(&im, header.orientation, err)) {
        image_finish(&im);
        return false;
    }
    *out = im;
    return true;
}
