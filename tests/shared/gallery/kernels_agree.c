/* Runs every kernel of this processor on the same made-up gallery and prints, for each, a digest
 * of all that it computes: codes, error lengths, products at each depth, and searches. Compiled for
 * several architectures by test_architectures.py; equal lines mean equal bits. */

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <stdio.h>

#include "types.h"

#include "arithmetic.inc"

#include "kernels.inc"

#include "workers.inc"

#include "search.inc"

static uint64_t state = 1;
static uint64_t random_bits(void) { /* xorshift64 (Marsaglia 2003) */
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state;
}

static uint64_t digest;
static void take(const void *data, size_t bytes) { /* FNV-1a */
    for (size_t i = 0; i < bytes; i++)
        digest = (digest ^ ((const uint8_t *)data)[i]) * 0x100000001b3u;
}

static void unit_row(float *row, int dimension) {
    double squares = 0;
    for (int i = 0; i < dimension; i++) {
        double sum = 0;
        for (int n = 0; n < 4; n++) sum += (double)(random_bits() >> 11) * 0x1p-53 - 0.5;
        row[i] = (float)sum;
        squares += sum * sum;
    }
    for (int i = 0; i < dimension; i++) row[i] = (float)(row[i] / sqrt(squares));
}

static void compare(const Kernel *kernel, int dimension, int count) {
    Book book = {.dimension = dimension, .width = (dimension + 127) / 128 * 128, .reach = 1.006f};
    const int8_t levels2[4] = {-36, -12, 12, 36};
    const int8_t half[8] = {3, 9, 15, 21, 28, 36, 47, 63};
    book.least = -71;
    book.most = 70;
    book.step = (float)(2.8 / 63 / sqrt(book.width));
    for (book.span = 128; 2 * book.span <= book.width;) book.span *= 2;
    for (int i = 0; i < 16; i++) book.levels4[i] = (int8_t)(i < 8 ? -half[7 - i] : half[i - 8]);
    memcpy(book.levels2, levels2, 4);
    book.bounds[0] = (int8_t)book.least;
    for (int i = 1; i < 16; i++) {
        int low = book.levels4[i - 1], high = book.levels4[i], middle = (low + high + 128) / 2 - 64;
        book.bounds[i] = (int8_t)(middle < high - 8 ? high - 8 : middle > low + 8 ? low + 8 : middle);
    }
    for (int i = 0; i < 64; i++) {
        book.table2[i] = (uint8_t)(levels2[i & 3] + BIAS);
        book.table4[i] = (uint8_t)(book.levels4[i & 15] + BIAS);
    }
    state = 88172645463325252u;
    int8_t *signs = malloc(2 * (size_t)book.width);
    for (int i = 0; i < 2 * book.width; i++) signs[i] = random_bits() >> 63 ? 1 : -1;
    book.signs = signs;

    const size_t groups = ((size_t)count + 15) / 16, places = 16 * groups, width = (size_t)book.width;
    uint16_t *errors = calloc(3 * places, 2), *alive = calloc(groups, 2);
    uint16_t *rows = calloc(places * (size_t)dimension, 2);
    uint64_t *ids = calloc(places, 8);
    Planes planes = {calloc(places, width / 4), calloc(places, width / 4), calloc(places, width / 2),
                     {errors, errors + places, errors + 2 * places}};
    float *vector = malloc(sizeof(float) * (size_t)dimension);
    EncodeScratch scratch;
    if (!new_encode_scratch(&scratch, width)) abort();
    for (int i = 0; i < count; i++) {
        unit_row(vector, dimension);
        kernel->halve(vector, rows + (size_t)i * (size_t)dimension, dimension);
        ids[i] = random_bits();
        alive[i / 16] |= (uint16_t)((i % 7 != 3) << (i % 16));
    }
    for (int i = 0; i < count; i += 16)
        kernel->encode(&book, rows + (size_t)i * (size_t)dimension, count - i < 16 ? count - i : 16,
                       &planes, i, &scratch);
    take(rows, places * (size_t)dimension * 2);
    take(planes.high, places * width / 4);
    take(planes.mid, places * width / 4);
    take(planes.low, places * width / 2);
    take(errors, places * 6);

    enum { PROBES = 23 };
    float *probes = malloc(sizeof(float) * PROBES * (size_t)dimension);
    int64_t limits[PROBES];
    double thresholds[PROBES];
    for (int p = 0; p < PROBES; p++) {
        unit_row(probes + p * dimension, dimension);
        limits[p] = 1 + p;
        thresholds[p] = p % 3 ? -1 : 0.05;
    }
    Segment segment = {planes, rows, alive, ids, (int64_t)groups};
    Search search = {.kernel = kernel, .book = &book, .segments = &segment,
                     .chunks = ((int64_t)groups + CHUNK - 1) / CHUNK};
    search.room = room_for(PROBES, search.chunks);
    if (!new_batch(&search.batch, kernel, &book, probes, PROBES, limits, thresholds)) abort();
    int32_t *products = malloc(sizeof *products * PROBES * places);
    for (int both = 0; both < 2; both++)
        for (int b = 0; b < search.batch.block_count; b++) {
            const Block *block = &search.batch.blocks[b];
            kernel->products(&book, planes.high, both ? planes.mid : NULL, (int64_t)groups, block,
                             products, (int64_t)places);
            take(products, sizeof *products * (size_t)block->count * places);
        }
    for (int p = 0; p < PROBES; p++)
        for (int i = 0; i < count; i++) {
            int32_t low = kernel->low_product(&book, planes.low + (size_t)i * width / 2,
                                              &search.batch.probes[p]);
            take(&low, sizeof low);
        }
    in_parallel(search_task, &search, 2);
    for (int p = 0; p < PROBES; p++) {
        Probe *probe = &search.batch.probes[p];
        qsort(probe->best, (size_t)probe->hits, sizeof(Hit), by_rank);
        take(probe->best, (size_t)probe->hits * sizeof(Hit));
    }
    free_batch(&search.batch);
    free(products), free(probes), free(scratch.lanes), free(vector), free(ids), free(rows), free(alive);
    free(errors), free(planes.high), free(planes.mid), free(planes.low), free(signs);
}

int main(void) {
    pthread_atfork(NULL, NULL, forget_workers);
    for (int i = 0; i < KERNEL_COUNT; i++) {
        if (!KERNELS[i].runs_here()) continue;
        digest = 0xcbf29ce484222325u;
        compare(&KERNELS[i], 512, 1500);
        compare(&KERNELS[i], 200, 333);
        compare(&KERNELS[i], 3, 17);
        printf("%s %016llx\n", KERNELS[i].name, (unsigned long long)digest);
    }
    return 0;
}
