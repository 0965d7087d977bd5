/* Arithmetic in plain C, inlined into functions that each instruction set compiles for itself. */

static ALWAYS uint32_t bits_of(float f) { uint32_t u; memcpy(&u, &f, 4); return u; }
static ALWAYS float float_of(uint32_t u) { float f; memcpy(&f, &u, 4); return f; }

static ALWAYS float from_half(uint16_t h) { /* finite halves; no subnormal float on the way */
    uint32_t magnitude = (uint32_t)(h & 0x7fff);
    float normal = float_of((magnitude << 13) + 0x38000000u);
    float tiny = (float)(int32_t)magnitude * 0x1p-24f;
    return float_of(bits_of(magnitude < 0x400 ? tiny : normal) | (uint32_t)(h & 0x8000) << 16);
}

static ALWAYS uint16_t to_half(float f) { /* nearest, ties to even; |f| below 65,520 */
    uint32_t u = bits_of(f), magnitude = u & 0x7fffffffu;
    uint32_t normal = (magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
    uint32_t tiny = bits_of(float_of(magnitude) + 0.5f) - 0x3f000000u;
    return (uint16_t)((magnitude < 0x38800000u ? tiny : normal) | (u >> 16 & 0x8000u));
}

/* Sum of the products, as if in twice double precision (Ogita, Rump and Oishi 2005, Dot2): each
 * product of a half and a float is exact in a double, so only the sums need their errors carried.
 * The order of summation cannot be seen in the result, so equal rows have equal similarities. */
static ALWAYS void two_sum(double *sum, double *rest, double term) {
    double total = *sum + term, part = total - *sum;
    *rest += (*sum - (total - part)) + (term - part);
    *sum = total;
}
static ALWAYS double similarity_body(const uint16_t *row, const float *probe, int dimension) {
    double sum[8] = {0}, rest[8] = {0};
    int i = 0;
    for (; i + 8 <= dimension; i += 8)
        for (int l = 0; l < 8; l++)
            two_sum(&sum[l], &rest[l], (double)from_half(row[i + l]) * (double)probe[i + l]);
    for (; i < dimension; i++)
        two_sum(&sum[0], &rest[0], (double)from_half(row[i]) * (double)probe[i]);
    for (int l = 1; l < 8; l++) {
        two_sum(&sum[0], &rest[0], sum[l]);
        rest[0] += rest[l];
    }
    return sum[0] + rest[0];
}

static uint16_t error_unit(const Book *book, float squares) {
    double error = sqrt((double)squares) * (1 + book->width * 0x1p-23) + 0x1p-22 +
                   ROTATION_ERROR * book->reach;
    double units = ceil(error / ERROR_UNIT);
    return units < 65535 ? (uint16_t)units : 65535;
}

/* For each group the templates whose bound reaches the floor: product + weight*error >= cut. */
static ALWAYS void admit_body(const int32_t *products, const uint16_t *errors, int64_t groups,
                              float weight, float cut, uint16_t *masks) {
    for (int64_t g = 0; g < groups; g++) {
        int32_t mask = 0;
        for (int l = 0; l < 16; l++) {
            float bound = (float)products[16 * g + l] + weight * (float)errors[16 * g + l];
            mask |= -(bound >= cut) & (1 << l);
        }
        masks[g] = (uint16_t)mask;
    }
}

/* One allocation; release `lanes` with free. */
static int new_encode_scratch(EncodeScratch *scratch, size_t width) {
    scratch->lanes = aligned_alloc(64, width * (16 * sizeof(float) + 4 + 4 + 16 + sizeof(float)));
    if (!scratch->lanes) return 0;
    scratch->high = (uint8_t *)(scratch->lanes + 16 * width);
    scratch->mid = scratch->high + 4 * width;
    scratch->low = scratch->mid + 4 * width;
    scratch->row = (float *)(scratch->low + 16 * width);
    return 1;
}
