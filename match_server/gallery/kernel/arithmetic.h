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

/* Two rounds of random signs and Hadamard transforms, over 16 vectors side by side: [width][16].
 * Where the width is no power of two, two transforms overlap. */
static ALWAYS void hadamard(float *lanes, int span) {
    for (int stride = 1; stride < span; stride *= 2)
        for (int start = 0; start < span; start += 2 * stride)
            for (int i = start; i < start + stride; i++) {
                float *a = lanes + 16 * i, *b = a + 16 * stride;
                for (int l = 0; l < 16; l++) {
                    float sum = a[l] + b[l], difference = a[l] - b[l];
                    a[l] = sum;
                    b[l] = difference;
                }
            }
    float scale = (float)(1.0 / sqrt((double)span));
    for (int i = 0; i < 16 * span; i++) lanes[i] *= scale;
}
static ALWAYS void rotate_body(const Book *book, float *lanes) {
    for (int round = 0; round < 2; round++) {
        for (int i = 0; i < book->width; i++)
            for (int l = 0; l < 16; l++) lanes[16 * i + l] *= book->signs[round * book->width + i];
        hadamard(lanes, book->span);
        if (book->span < book->width) hadamard(lanes + 16 * (book->width - book->span), book->span);
    }
}

static uint16_t error_unit(const Book *book, float squares) {
    double error = sqrt((double)squares) * (1 + book->width * 0x1p-23) + 0x1p-22 +
                   ROTATION_ERROR * book->reach;
    double units = ceil(error / ERROR_UNIT);
    return units < 65535 ? (uint16_t)units : 65535;
}

/* Codes of up to 16 rows, written to the places from `at` on, all of one group. */
static ALWAYS void encode_body(const Book *book, const uint16_t *rows, int count, Planes *out,
                               int64_t at, float *scratch) {
    const int width = book->width, first = (int)(at & 15);
    float *lanes = scratch;
    int8_t *low = (int8_t *)(scratch + 16 * width);
    memset(lanes, 0, sizeof(float) * 16 * (size_t)width);
    for (int t = 0; t < count; t++)
        for (int i = 0; i < book->dimension; i++)
            lanes[16 * i + first + t] = from_half(rows[(int64_t)t * book->dimension + i]);
    rotate_body(book, lanes);
    const float inverse = 1.0f / book->step, step = book->step;
    const float least = (float)book->least, most = (float)book->most;
    float squares[3][16] = {{0}};
    uint8_t *high = out->high + (at >> 4) * width * 4, *mid = out->mid + (at >> 4) * width * 4;
    for (int k = 0; k < width / 16; k++)
        for (int b = 0; b < 4; b++) {
            uint8_t first_bits[16] = {0}, second_bits[16] = {0};
            for (int j = 0; j < 4; j++) {
                const int i = 16 * k + 4 * j + b;
                const float *x = lanes + 16 * i;
                for (int l = 0; l < 16; l++) {
                    float scaled = x[l] * inverse;
                    scaled = scaled < least ? least : scaled > most ? most : scaled;
                    int32_t c = (int32_t)((scaled + 0x1.8p23f) - 0x1.8p23f);
                    int32_t index = 0, level = book->levels4[0];
                    for (int n = 1; n < 16; n++) {
                        int32_t above = -(c >= book->bounds[n]);
                        index -= above;
                        level += above & (book->levels4[n] - book->levels4[n - 1]);
                    }
                    int32_t coarse = book->levels2[0];
                    for (int n = 1; n < 4; n++)
                        coarse += -(c >= book->bounds[4 * n]) &
                                  (book->levels2[n] - book->levels2[n - 1]);
                    float e2 = x[l] - step * (float)coarse, e4 = x[l] - step * (float)level,
                          e8 = x[l] - step * (float)c;
                    squares[0][l] += e2 * e2;
                    squares[1][l] += e4 * e4;
                    squares[2][l] += e8 * e8;
                    first_bits[l] |= (uint8_t)((index >> 2) << (2 * j));
                    second_bits[l] |= (uint8_t)((index & 3) << (2 * j));
                    low[16 * i + l] = (int8_t)(c - level + 8);
                }
            }
            for (int l = first; l < first + count; l++) {
                high[64 * k + 4 * l + b] = first_bits[l];
                mid[64 * k + 4 * l + b] = second_bits[l];
            }
        }
    for (int l = first; l < first + count; l++) {
        int64_t place = (at & ~(int64_t)15) + l;
        uint8_t *row = out->low + place * (width / 2);
        for (int i = 0; i < width / 2; i++)
            row[i] = (uint8_t)(low[16 * i + l] | low[16 * (i + width / 2) + l] << 4);
        for (int depth = 0; depth < 3; depth++)
            out->errors[depth][place] = error_unit(book, squares[depth][l]);
    }
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

