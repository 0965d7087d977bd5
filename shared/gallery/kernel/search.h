/* A search: all shelves, chunk by chunk, for all probes at once. */

static int worse(const Found *a, const Found *b) { /* lower, or as high with a larger id */
    return a->similarity < b->similarity || (a->similarity == b->similarity && a->id > b->id);
}

static void sift(Found *heap, int64_t count, int64_t at) {
    for (int64_t child; (child = 2 * at + 1) < count; at = child) {
        if (child + 1 < count && worse(&heap[child + 1], &heap[child])) child++;
        if (!worse(&heap[child], &heap[at])) return;
        Found swap = heap[at];
        heap[at] = heap[child];
        heap[child] = swap;
    }
}

static void offer(Probe *probe, double similarity, uint64_t id) {
    Found found = {similarity, id};
    if (similarity < probe->threshold) return;
    pthread_mutex_lock(&probe->lock);
    Found *heap = probe->best;
    if (probe->found < probe->limit) {
        int64_t at = probe->found++;
        for (; at && worse(&found, &heap[(at - 1) / 2]); at = (at - 1) / 2)
            heap[at] = heap[(at - 1) / 2];
        heap[at] = found;
    } else if (worse(&heap[0], &found)) {
        heap[0] = found;
        sift(heap, probe->found, 0);
    }
    if (probe->found == probe->limit && heap[0].similarity > probe->floor)
        probe->floor = heap[0].similarity;
    pthread_mutex_unlock(&probe->lock);
}

/* The least product + weight*error that can still mean a similarity of the probe's floor. */
static float cut_of(const Probe *probe) {
    double cut = (probe->floor - probe->allowance) / probe->unit - probe->slack;
    return cut < -1e30 ? -INFINITY : nextafterf((float)cut, -INFINITY);
}

typedef struct {
    int32_t product, place, shelf;
    float bound; /* product + weight * error */
} Survivor;

typedef struct {
    Survivor *items;
    int64_t count;
} Pending;

typedef struct {
    const Kernel *kernel;
    const Book *book;
    const Shelf *shelves;
    Batch batch;
    int64_t chunks, room; /* room: of a probe's list of pending survivors, in each thread */
    _Atomic int64_t next; /* chunk to take */
    _Atomic int failed;   /* no memory for a thread's scratch */
} Search;

typedef struct {
    int32_t products[16 * 16 * CHUNK];
    uint16_t wanted[CHUNK], masks[CHUNK];
    int64_t coarse_in, pause; /* chunks to go before the high plane alone is tried again */
    Pending *pending;         /* one for each probe */
} Scratch;

static int by_product(const void *a, const void *b) {
    int32_t first = ((const Survivor *)a)->product, second = ((const Survivor *)b)->product;
    return (first < second) - (first > second);
}

/* Follows one survivor of the scan down to its row. */
static void settle(const Search *search, Probe *probe, Survivor survivor) {
    const Book *book = search->book;
    const Shelf *shelf = &search->shelves[survivor.shelf];
    const int64_t place = survivor.place;
    const float cut = cut_of(probe);
    if (survivor.bound < cut) return;
    const uint8_t *low = shelf->planes.low + place * (book->width / 2);
    int32_t product = survivor.product + search->kernel->low_product(book, low, probe);
    if ((float)product + probe->weight * shelf->planes.errors[2][place] < cut) return;
    const uint16_t *row = shelf->rows + place * book->dimension;
    offer(probe, search->kernel->similarity(row, probe->row, book->dimension), shelf->ids[place]);
}

static void settle_pending(const Search *search, Probe *probe, Pending *pending) {
    const int64_t low_bytes = search->book->width / 2;
    for (int64_t i = 0; i < pending->count; i++) {
        if (i + 12 < pending->count) {
            Survivor soon = pending->items[i + 12];
            const Planes *planes = &search->shelves[soon.shelf].planes;
            const uint8_t *low = planes->low + soon.place * low_bytes;
            __builtin_prefetch(planes->errors[2] + soon.place);
            for (int64_t line = 0; line < low_bytes; line += 64) __builtin_prefetch(low + line);
        }
        settle(search, probe, pending->items[i]);
    }
    pending->count = 0;
}

/* Likely candidates are settled at once, for each raises the floor; the others wait until the
 * floor has risen, when most of them need not be read at all. */
static void sort_out(const Search *search, const Scratch *scratch, Probe *probe, Pending *pending,
                     const int32_t *products, int shelf, int64_t first, int64_t groups) {
    const uint16_t *errors = search->shelves[shelf].planes.errors[1] + 16 * first;
    if (pending->count + 16 * CHUNK > search->room) settle_pending(search, probe, pending);
    Survivor *fresh = pending->items + pending->count;
    int64_t count = 0;
    for (int64_t g = 0; g < groups; g++)
        for (unsigned mask = scratch->masks[g]; mask; mask &= mask - 1) {
            int64_t i = 16 * g + __builtin_ctz(mask);
            fresh[count++] = (Survivor){products[i], (int32_t)(16 * first + i), shelf,
                                        (float)products[i] + probe->weight * (float)errors[i]};
        }
    if (probe->found < probe->limit) qsort(fresh, (size_t)count, sizeof *fresh, by_product);
    double likely = probe->floor / probe->unit;
    for (int64_t i = 0; i < count; i++)
        if (fresh[i].product >= likely || probe->found < probe->limit) {
            settle(search, probe, fresh[i]);
            likely = probe->floor / probe->unit;
        } else pending->items[pending->count++] = fresh[i];
}

/* Products of the groups that are wanted, run by run, over gaps that are not worth a stop. */
static void products_of_wanted(const Search *search, Scratch *scratch, const Shelf *shelf,
                               const Block *block, int both, int64_t first, int64_t groups) {
    const int64_t bytes = 4 * (int64_t)search->book->width;
    for (int64_t g = 0, end; g < groups; g = end + 1) {
        end = g;
        for (int64_t next = g; next < groups && next - end < 2; next++)
            if (scratch->wanted[next]) end = next + 1;
            else if (next == g) break;
        if (end > g)
            search->kernel->products(search->book, shelf->planes.high + (first + g) * bytes,
                                     both ? shelf->planes.mid + (first + g) * bytes : NULL, end - g,
                                     block, scratch->products + 16 * g, 16 * CHUNK);
    }
}

static void admit(const Search *search, Scratch *scratch, const Shelf *shelf, const Probe *probe,
                  int p, int depth, int64_t first, int64_t groups) {
    search->kernel->admit(scratch->products + p * 16 * CHUNK,
                          shelf->planes.errors[depth] + 16 * first, groups, probe->weight,
                          cut_of(probe), scratch->masks);
    for (int64_t g = 0; g < groups; g++) scratch->masks[g] &= scratch->wanted[g];
}

/* Leaves wanted only groups that the high plane alone cannot exclude. Where it excludes few, it is
 * not asked again for a while. */
static void narrow(const Search *search, Scratch *scratch, const Shelf *shelf, const Block *block,
                   int64_t first, int64_t groups) {
    uint16_t any[CHUNK] = {0};
    int64_t before = 0, left = 0;
    for (int p = 0; p < block->count; p++) /* without a floor nothing can be excluded */
        if (block->probes[p].floor <= -1) return;
    if (scratch->coarse_in-- > 0) return;
    products_of_wanted(search, scratch, shelf, block, 0, first, groups);
    for (int p = 0; p < block->count; p++) {
        admit(search, scratch, shelf, &block->probes[p], p, 0, first, groups);
        for (int64_t g = 0; g < groups; g++) any[g] |= scratch->masks[g];
    }
    for (int64_t g = 0; g < groups; g++) {
        before += scratch->wanted[g] != 0;
        left += (scratch->wanted[g] &= any[g]) != 0;
    }
    if (3 * left <= before) scratch->pause = 1;
    else scratch->coarse_in = scratch->pause = scratch->pause < 256 ? 2 * scratch->pause : 256;
}

static void scan_chunk(const Search *search, Scratch *scratch, int number, int64_t first,
                       int64_t groups) {
    const Shelf *shelf = &search->shelves[number];
    for (const Block *block = search->batch.blocks; block < search->batch.blocks + search->batch.block_count; block++) {
        int any = 0;
        for (int64_t g = 0; g < groups; g++) any |= scratch->wanted[g] = shelf->alive[first + g];
        if (!any) return;
        if (search->batch.count <= COARSE_PROBES)
            narrow(search, scratch, shelf, block, first, groups);
        products_of_wanted(search, scratch, shelf, block, 1, first, groups);
        for (int p = 0; p < block->count; p++) {
            Probe *probe = &block->probes[p];
            admit(search, scratch, shelf, probe, p, 1, first, groups);
            sort_out(search, scratch, probe, &scratch->pending[probe - search->batch.probes],
                     scratch->products + p * 16 * CHUNK, number, first, groups);
        }
    }
}

static void search_task(void *argument) {
    Search *search = argument;
    const size_t count = (size_t)search->batch.count, room = (size_t)search->room;
    Scratch *scratch = aligned_alloc(64, (sizeof *scratch + 63) / 64 * 64);
    Pending *pending = malloc(count * sizeof *pending);
    Survivor *items = malloc(count * room * sizeof *items);
    if (!scratch || !pending || !items) search->failed = 1;
    else {
        scratch->coarse_in = 0;
        scratch->pause = 1;
        scratch->pending = pending;
        for (size_t p = 0; p < count; p++) pending[p] = (Pending){items + p * room, 0};
        for (int64_t chunk; (chunk = search->next++) < search->chunks;) {
            int shelf = 0;
            for (int64_t of_shelf;
                 chunk >= (of_shelf = (search->shelves[shelf].groups + CHUNK - 1) / CHUNK); shelf++)
                chunk -= of_shelf;
            int64_t first = chunk * CHUNK, left = search->shelves[shelf].groups - first;
            scan_chunk(search, scratch, shelf, first, left < CHUNK ? left : CHUNK);
        }
        for (size_t p = 0; p < count; p++)
            settle_pending(search, &search->batch.probes[p], &pending[p]);
    }
    free(items);
    free(pending);
    free(scratch);
}

/* Codes of the probes and what their rounding may hide; docs/gallery.md has the names. */
static void prepare(const Kernel *kernel, const Book *book, const float *rows, Probe *probes,
                    int count, float *lanes) {
    const int width = book->width, dimension = book->dimension;
    for (int from = 0; from < count; from += 16) {
        int block = count - from < 16 ? count - from : 16;
        memset(lanes, 0, 16 * sizeof *lanes * (size_t)width);
        for (int l = 0; l < block; l++)
            for (int i = 0; i < dimension; i++)
                lanes[16 * i + l] = rows[(int64_t)(from + l) * dimension + i];
        kernel->rotate(book, lanes);
        for (int l = 0; l < block; l++) {
            Probe *probe = &probes[from + l];
            double norm = 0, lost = 0;
            float largest = 0x1p-60f;
            probe->row = rows + (int64_t)(from + l) * dimension;
            for (int i = 0; i < dimension; i++) norm += (double)probe->row[i] * probe->row[i];
            for (int i = 0; i < width; i++) largest = fmaxf(largest, fabsf(lanes[16 * i + l]));
            const double step = (double)largest / 127;
            for (int i = 0; i < width; i++) {
                double x = lanes[16 * i + l], c = nearbyint(x / step);
                probe->code[i] = (int8_t)c;
                probe->bias += BIAS * (int32_t)c;
                probe->low_bias += 8 * (int32_t)c;
                lost += (x - step * c) * (x - step * c);
            }
            norm = sqrt(norm) * (1 + 1e-9);
            lost = (sqrt(lost) + ROTATION_ERROR * norm + 1e-30) * (1 + 1e-9);
            probe->unit = step * (double)book->step;
            probe->margin = norm + lost;
            probe->allowance = lost * book->reach;
            double weight = probe->margin * ERROR_UNIT / probe->unit;
            probe->weight = nextafterf((float)weight, INFINITY);
            probe->slack = 0x1p-21 * (128.0 * 127 * width + 65536 * weight);
        }
    }
}

static int by_rank(const void *a, const void *b) { return worse(a, b) ? 1 : -1; }

static void free_batch(Batch *batch) {
    if (batch->probes) free(batch->probes->code), free(batch->probes->best);
    free(batch->probes);
    free(batch->blocks);
    free(batch->words);
    *batch = (Batch){0};
}

/* Probes ready for a scan, or false without memory. The rows must outlive them. */
static int new_batch(Batch *batch, const Kernel *kernel, const Book *book, const float *rows,
                     int count, const int64_t *limits, const double *thresholds) {
    const size_t width = (size_t)book->width;
    Probe *probes = batch->probes = calloc((size_t)count, sizeof *probes);
    int8_t *codes = malloc((size_t)count * width);
    size_t best = 0;
    for (int p = 0; p < count; p++) best += (size_t)limits[p];
    Found *found = malloc(best * sizeof *found);
    float *lanes = aligned_alloc(64, 16 * width * sizeof *lanes);
    batch->words = malloc((size_t)count * width);
    batch->blocks = malloc((size_t)(count / 16 + 4) * sizeof *batch->blocks);
    batch->count = count;
    batch->block_count = 0;
    if (probes) {
        probes->code = codes;
        probes->best = found;
    }
    if (!probes || !codes || !found || !lanes || !batch->words || !batch->blocks) {
        if (!probes) free(codes), free(found);
        free(lanes);
        free_batch(batch);
        return 0;
    }
    for (int p = 0; p < count; p++) {
        probes[p].code = codes + (size_t)p * width;
        probes[p].best = p ? probes[p - 1].best + limits[p - 1] : found;
        probes[p].limit = limits[p];
        probes[p].floor = probes[p].threshold = thresholds[p];
        pthread_mutex_init(&probes[p].lock, NULL);
    }
    prepare(kernel, book, rows, probes, count, lanes);
    free(lanes);
    for (int from = 0, size = 16; from < count; from += size) {
        while (size > count - from) size /= 2;
        Block *block = &batch->blocks[batch->block_count++];
        *block = (Block){size, probes + from, batch->words + (size_t)from * width / 4};
        for (size_t word = 0; word < width / 4; word++)
            for (int p = 0; p < size; p++)
                memcpy(&block->words[word * (size_t)size + (size_t)p],
                       probes[from + p].code + 4 * word, 4);
    }
    return 1;
}
