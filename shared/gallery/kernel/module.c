/* The kernel as a Python module. The interpreter lock is not held while it works. */

#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030B0000
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <Python.h>

#include "types.h"

#include "arithmetic.inc"

#include "kernels.inc"

#include "workers.inc"

#include "search.inc"

/* What a call borrows from Python objects, given back together. */
typedef struct {
    Py_buffer *views;
    Py_ssize_t count, room;
} Borrowed;

static void *borrow(Borrowed *all, PyObject *object, Py_ssize_t bytes, int writable) {
    if (all->count == all->room) {
        PyErr_SetString(PyExc_SystemError, "more buffers than a call has");
        return NULL;
    }
    Py_buffer *view = &all->views[all->count];
    if (PyObject_GetBuffer(object, view, writable ? PyBUF_WRITABLE : PyBUF_SIMPLE)) return NULL;
    all->count++;
    if (view->len >= bytes) return view->buf;
    PyErr_Format(PyExc_ValueError, "a buffer of %zd bytes where %zd are needed", view->len, bytes);
    return NULL;
}

/* Room for `count` things of `size` bytes, whatever a caller says the count is. */
static void *borrow_some(Borrowed *all, PyObject *object, long long count, Py_ssize_t size,
                         int writable) {
    if (count >= 0 && count <= PY_SSIZE_T_MAX / size)
        return borrow(all, object, (Py_ssize_t)count * size, writable);
    PyErr_Format(PyExc_ValueError, "no buffer holds %lld values", count);
    return NULL;
}

static void give_back(Borrowed *all) {
    for (Py_ssize_t i = 0; i < all->count; i++) PyBuffer_Release(&all->views[i]);
}

static const Kernel *kernel_named(const char *name) {
    for (int i = 0; i < KERNEL_COUNT; i++)
        if (!strcmp(KERNELS[i].name, name) && KERNELS[i].runs_here()) return &KERNELS[i];
    PyErr_Format(PyExc_ValueError, "no kernel %s on this processor", name);
    return NULL;
}

static int read_book(Borrowed *all, PyObject *tuple, Book *book) {
    PyObject *signs, *levels2, *levels4, *bounds;
    const int8_t *l2, *l4, *b;
    if (!PyArg_ParseTuple(tuple, "iiffiiOOOO:book", &book->dimension, &book->width, &book->step,
                          &book->reach, &book->least, &book->most, &levels2, &levels4, &bounds,
                          &signs))
        return 0;
    if (book->dimension < 1 || book->width < book->dimension || book->width % 128 ||
        book->width > 4096) {
        PyErr_SetString(PyExc_ValueError, "a width is a multiple of 128, up to 4096");
        return 0;
    }
    if (!(l2 = borrow(all, levels2, 4, 0)) || !(l4 = borrow(all, levels4, 16, 0)) ||
        !(b = borrow(all, bounds, 16, 0)) ||
        !(book->signs = borrow(all, signs, 2 * book->width, 0)))
        return 0;
    if (l2[1] - l2[0] != l2[2] - l2[1] || l2[2] - l2[1] != l2[3] - l2[2]) {
        PyErr_SetString(PyExc_ValueError, "the four levels of a book are equally spaced");
        return 0;
    }
    memcpy(book->levels2, l2, 4);
    memcpy(book->levels4, l4, 16);
    memcpy(book->bounds, b, 16);
    for (int i = 0; i < 64; i++) {
        book->table2[i] = (uint8_t)(l2[i & 3] + BIAS);
        book->table4[i] = (uint8_t)(l4[i & 15] + BIAS);
    }
    for (book->span = 128; 2 * book->span <= book->width;) book->span *= 2;
    return 1;
}

/* planes: (groups, high, mid, low, errors), errors as rows of 16 * groups for the three depths */
static int read_planes(Borrowed *all, PyObject *tuple, const Book *book, int writable,
                       Planes *planes, int64_t *groups) {
    PyObject *high, *mid, *low, *errors;
    uint16_t *lengths;
    long long count;
    if (!PyArg_ParseTuple(tuple, "LOOOO:planes", &count, &high, &mid, &low, &errors)) return 0;
    if (count < 0 || count > INT32_MAX / 16) {
        PyErr_SetString(PyExc_ValueError, "a segment has 0 to 2^27 groups");
        return 0;
    }
    const Py_ssize_t places = 16 * (Py_ssize_t)count, width = book->width;
    if (!(planes->high = borrow(all, high, places * width / 4, writable)) ||
        !(planes->mid = borrow(all, mid, places * width / 4, writable)) ||
        !(planes->low = borrow(all, low, places * width / 2, writable)) ||
        !(lengths = borrow(all, errors, places * 6, writable)))
        return 0;
    for (int depth = 0; depth < 3; depth++) planes->errors[depth] = lengths + depth * places;
    *groups = count;
    return 1;
}

#define SEGMENT_BUFFERS 7
static int read_segment(Borrowed *all, PyObject *tuple, const Book *book, Segment *segment) {
    PyObject *planes, *rows, *ids, *alive;
    return PyArg_ParseTuple(tuple, "OOOO:segment", &planes, &rows, &ids, &alive) &&
           read_planes(all, planes, book, 0, &segment->planes, &segment->groups) &&
           (segment->rows = borrow(all, rows, 32 * segment->groups * book->dimension, 0)) &&
           (segment->ids = borrow(all, ids, 128 * segment->groups, 0)) &&
           (segment->alive = borrow(all, alive, 2 * segment->groups, 0));
}

static PyObject *py_kernels(PyObject *self, PyObject *none) {
    (void)self, (void)none;
    PyObject *names = PyList_New(0);
    for (int i = 0; names && i < KERNEL_COUNT; i++) {
        if (!KERNELS[i].runs_here()) continue;
        PyObject *name = PyUnicode_FromString(KERNELS[i].name);
        if (!name || PyList_Append(names, name)) Py_CLEAR(names);
        Py_XDECREF(name);
    }
    return names;
}

typedef struct {
    const Kernel *kernel;
    const Book *book;
    const float *vectors; /* to be halved first, or none */
    uint16_t *rows;       /* of the place 0 */
    Planes planes;
    int64_t first, last;
    _Atomic int64_t next; /* group */
    _Atomic int failed;
} Encoding;

static void encode_task(void *argument) {
    Encoding *job = argument;
    const size_t width = (size_t)job->book->width, dimension = (size_t)job->book->dimension;
    EncodeScratch scratch;
    if (!new_encode_scratch(&scratch, width)) {
        job->failed = 1;
        return;
    }
    for (int64_t group; (group = job->next++) * 16 < job->last;) {
        int64_t from = group * 16 < job->first ? job->first : group * 16;
        int64_t to = group * 16 + 16 < job->last ? group * 16 + 16 : job->last;
        uint16_t *rows = job->rows + (size_t)from * dimension;
        if (job->vectors)
            job->kernel->halve(job->vectors + (size_t)(from - job->first) * dimension, rows,
                               (to - from) * (int64_t)dimension);
        job->kernel->encode(job->book, rows, (int)(to - from), &job->planes, from, &scratch);
    }
    free(scratch.lanes);
}

#define CALL_BUFFERS 12

/* encode(kernel, threads, book, vectors | None, rows, planes, first, last) */
static PyObject *py_encode(PyObject *self, PyObject *args) {
    (void)self;
    Py_buffer views[CALL_BUFFERS];
    Borrowed all = {views, 0, CALL_BUFFERS};
    Book book = {0};
    Encoding job = {.book = &book};
    const char *name;
    int threads, fine = 0;
    PyObject *book_tuple, *vectors, *rows, *planes;
    long long first, last;
    int64_t groups;
    if (!PyArg_ParseTuple(args, "siOOOOLL:encode", &name, &threads, &book_tuple, &vectors, &rows,
                          &planes, &first, &last))
        return NULL;
    if (!(job.kernel = kernel_named(name)) || !read_book(&all, book_tuple, &book) ||
        !read_planes(&all, planes, &book, 1, &job.planes, &groups))
        goto end;
    if (first < 0 || last < first || last > 16 * groups) {
        PyErr_SetString(PyExc_ValueError, "places run from first to last, within the planes");
        goto end;
    }
    job.first = first;
    job.last = last;
    job.next = first / 16;
    if (!(job.rows = borrow(&all, rows, 2 * last * book.dimension, vectors != Py_None)) ||
        (vectors != Py_None &&
         !(job.vectors = borrow(&all, vectors, 4 * (last - first) * book.dimension, 0))))
        goto end;
    Py_BEGIN_ALLOW_THREADS in_parallel(encode_task, &job, last - first < 256 ? 1 : threads);
    Py_END_ALLOW_THREADS fine = !job.failed;
    if (!fine) PyErr_NoMemory();
end:
    give_back(&all);
    if (!fine) return NULL;
    Py_RETURN_NONE;
}

/* search(kernel, threads, book, segments, probes, limits, thresholds, ids, similarities, counts)
 * writes, for each probe in turn, room for its limit of ids (uint64) and similarities (float64),
 * of which the first `counts` (int64) are filled. */
static PyObject *py_search(PyObject *self, PyObject *args) {
    (void)self;
    const char *name;
    int threads, count, fine = 0;
    PyObject *book_tuple, *segment_list, *rows, *inputs[2], *outputs[3];
    if (!PyArg_ParseTuple(args, "siOO!OiOOOOO:search", &name, &threads, &book_tuple, &PyList_Type,
                          &segment_list, &rows, &count, &inputs[0], &inputs[1], &outputs[0],
                          &outputs[1], &outputs[2]))
        return NULL;
    Book book = {0};
    const Py_ssize_t segment_count = PyList_Size(segment_list);
    const Py_ssize_t room = CALL_BUFFERS + SEGMENT_BUFFERS * segment_count;
    Py_buffer *views = malloc(sizeof *views * (size_t)room);
    Segment *segments = malloc(sizeof *segments * (size_t)(segment_count + 1));
    Borrowed all = {views, 0, room};
    Search search = {.book = &book, .segments = segments};
    if (!views || !segments) {
        PyErr_NoMemory();
        goto end;
    }
    if (!(search.kernel = kernel_named(name)) || !read_book(&all, book_tuple, &book)) goto end;
    for (Py_ssize_t i = 0; i < segment_count; i++) {
        if (!read_segment(&all, PyList_GetItem(segment_list, i), &book, &segments[i])) goto end;
        search.chunks += (segments[i].groups + CHUNK - 1) / CHUNK;
    }
    const float *probe_rows = borrow_some(&all, rows, count, 4 * book.dimension, 0);
    const int64_t *limits = borrow_some(&all, inputs[0], count, 8, 0);
    const double *thresholds = borrow_some(&all, inputs[1], count, 8, 0);
    int64_t *counts = borrow_some(&all, outputs[2], count, 8, 1), total = 0;
    if (!probe_rows || !limits || !thresholds || !counts) goto end;
    int sound = count > 0;
    for (int p = 0; sound && p < count; p++) {
        sound = limits[p] > 0 && limits[p] <= PY_SSIZE_T_MAX / 64 - total;
        if (sound) total += limits[p];
    }
    if (!sound) {
        PyErr_SetString(PyExc_ValueError, "a search has probes, each with a limit of at least 1");
        goto end;
    }
    uint64_t *ids = borrow(&all, outputs[0], 8 * total, 1);
    double *similarities = borrow(&all, outputs[1], 8 * total, 1);
    if (!ids || !similarities) goto end;
    Py_BEGIN_ALLOW_THREADS fine =
        new_batch(&search.batch, search.kernel, &book, probe_rows, count, limits, thresholds);
    if (fine) {
        search.room = room_for(count, search.chunks);
        in_parallel(search_task, &search, threads);
        fine = !search.failed;
    }
    for (int p = 0; fine && p < count; p++) {
        Probe *probe = &search.batch.probes[p];
        qsort(probe->best, (size_t)probe->hits, sizeof(Hit), by_rank);
        counts[p] = probe->hits;
        for (int64_t i = 0; i < probe->hits; i++) {
            ids[i] = probe->best[i].id;
            similarities[i] = probe->best[i].similarity;
        }
        ids += probe->limit;
        similarities += probe->limit;
    }
    Py_END_ALLOW_THREADS if (!fine) PyErr_NoMemory();
end:
    free_batch(&search.batch);
    give_back(&all);
    free(views);
    free(segments);
    if (!fine) return NULL;
    Py_RETURN_NONE;
}

/* bounds(kernel, book, segment, probe, depth, estimates, margins): for each template what the
 * planes down to depth 0, 1 or 2 say of its similarity, and how far from it the truth can be. */
static PyObject *py_bounds(PyObject *self, PyObject *args) {
    (void)self;
    const char *name;
    int depth, fine = 0;
    PyObject *book_tuple, *segment_tuple, *row, *outputs[2];
    if (!PyArg_ParseTuple(args, "sOOOiOO:bounds", &name, &book_tuple, &segment_tuple, &row, &depth,
                          &outputs[0], &outputs[1]))
        return NULL;
    Py_buffer views[CALL_BUFFERS + SEGMENT_BUFFERS];
    Borrowed all = {views, 0, CALL_BUFFERS + SEGMENT_BUFFERS};
    Book book = {0};
    Segment segment;
    const int64_t one = 1;
    const double least = -1;
    Batch batch = {0};
    int32_t *products = NULL;
    const Kernel *kernel = kernel_named(name);
    if (!kernel || !read_book(&all, book_tuple, &book) ||
        !read_segment(&all, segment_tuple, &book, &segment))
        goto end;
    const float *probe_row = borrow(&all, row, 4 * book.dimension, 0);
    double *estimates = borrow(&all, outputs[0], 128 * segment.groups, 1);
    double *margins = borrow(&all, outputs[1], 128 * segment.groups, 1);
    if (!probe_row || !estimates || !margins) goto end;
    Py_BEGIN_ALLOW_THREADS products = malloc(64 * (size_t)segment.groups + 64);
    if (products && new_batch(&batch, kernel, &book, probe_row, 1, &one, &least)) {
        const Probe *probe = batch.probes;
        kernel->products(&book, segment.planes.high, depth ? segment.planes.mid : NULL,
                         segment.groups, batch.blocks, products, 0);
        for (int64_t i = 0; i < 16 * segment.groups; i++) {
            const uint8_t *low = segment.planes.low + i * (book.width / 2);
            int32_t product =
                products[i] + (depth > 1 ? kernel->low_product(&book, low, probe) : 0);
            estimates[i] = probe->unit * product;
            margins[i] =
                probe->margin * ERROR_UNIT * segment.planes.errors[depth][i] + probe->allowance;
        }
        fine = 1;
    }
    Py_END_ALLOW_THREADS if (!fine) PyErr_NoMemory();
end:
    free(products);
    free_batch(&batch);
    give_back(&all);
    if (!fine) return NULL;
    Py_RETURN_NONE;
}

/* First rank from `from` on whose id is not below `target`: near ones first. */
static int64_t gallop(const uint64_t *ids, const uint32_t *order, int64_t from, int64_t count,
                      uint64_t target) {
#define ID(rank) ids[order ? order[rank] : (rank)]
    int64_t step = 1, low = from, high = from;
    while (high < count && ID(high) < target) {
        low = high + 1;
        high += step;
        step *= 2;
    }
    if (high > count) high = count;
    while (low < high) {
        int64_t middle = low + (high - low) / 2;
        if (ID(middle) < target) low = middle + 1;
        else high = middle;
    }
    return low;
}

/* choose(ids, order | None, count, among, bits): sets the bit of each place whose id is in among.
 * Both are ascending, the ids by order; there may be places of equal id, which are all chosen. */
static PyObject *py_choose(PyObject *self, PyObject *args) {
    (void)self;
    Py_buffer views[CALL_BUFFERS];
    Borrowed all = {views, 0, CALL_BUFFERS};
    PyObject *id_array, *order_array, *among_array, *bits_array;
    long long count, number;
    if (!PyArg_ParseTuple(args, "OOLOLO:choose", &id_array, &order_array, &count, &among_array,
                          &number, &bits_array))
        return NULL;
    const uint32_t *order = NULL;
    const uint64_t *ids = borrow_some(&all, id_array, count, 8, 0);
    const uint64_t *among = ids ? borrow_some(&all, among_array, number, 8, 0) : NULL;
    uint16_t *bits = among ? borrow(&all, bits_array, (count + 15) / 16 * 2, 1) : NULL;
    if (bits && order_array != Py_None) order = borrow_some(&all, order_array, count, 4, 0);
    if (bits && (order || order_array == Py_None)) {
        Py_BEGIN_ALLOW_THREADS int64_t rank = 0;
        for (int64_t i = 0; i < number && rank < count; i++)
            for (rank = gallop(ids, order, rank, count, among[i]);
                 rank < count && ID(rank) == among[i]; rank++) {
                int64_t place = order ? order[rank] : rank;
                bits[place >> 4] |= (uint16_t)(1 << (place & 15));
            }
        Py_END_ALLOW_THREADS
    }
    give_back(&all);
    if (PyErr_Occurred()) return NULL;
    Py_RETURN_NONE;
}

/* find(ids, order | None, count, alive, targets, number, places): the place of each target id, -1
 * where none is alive. Of places with equal ids the first in order counts: only it can be alive. */
static PyObject *py_find(PyObject *self, PyObject *args) {
    (void)self;
    Py_buffer views[CALL_BUFFERS];
    Borrowed all = {views, 0, CALL_BUFFERS};
    PyObject *id_array, *order_array, *alive_array, *target_array, *place_array;
    long long count, number;
    if (!PyArg_ParseTuple(args, "OOLOOLO:find", &id_array, &order_array, &count, &alive_array,
                          &target_array, &number, &place_array))
        return NULL;
    const uint32_t *order = NULL;
    const uint64_t *ids = borrow_some(&all, id_array, count, 8, 0);
    const uint16_t *alive = ids ? borrow(&all, alive_array, (count + 15) / 16 * 2, 0) : NULL;
    const uint64_t *targets = alive ? borrow_some(&all, target_array, number, 8, 0) : NULL;
    int64_t *places = targets ? borrow_some(&all, place_array, number, 8, 1) : NULL;
    if (places && order_array != Py_None) order = borrow_some(&all, order_array, count, 4, 0);
    if (places && (order || order_array == Py_None)) {
        Py_BEGIN_ALLOW_THREADS int64_t rank = 0;
        for (int64_t i = 0; i < number; i++) {
            int64_t from =
                i && targets[i] >= targets[i - 1] ? rank : 0; /* ascending ones are near */
            rank = gallop(ids, order, from, count, targets[i]);
            int64_t place = rank < count ? (order ? order[rank] : rank) : -1;
            int here =
                place >= 0 && ids[place] == targets[i] && alive[place >> 4] >> (place & 15) & 1;
            places[i] = here ? place : -1;
        }
        Py_END_ALLOW_THREADS
    }
    give_back(&all);
    if (PyErr_Occurred()) return NULL;
    Py_RETURN_NONE;
}

typedef struct {
    const uint64_t *words;
    int64_t blocks; /* of 64 KiB */
    _Atomic int64_t next;
    _Atomic uint64_t sum;
} Reading;

static void read_task(void *argument) {
    Reading *job = argument;
    uint64_t sums[8] = {0};
    for (int64_t block; (block = job->next++) < job->blocks;)
        for (const uint64_t *w = job->words + block * 8192, *end = w + 8192; w < end; w += 8)
            for (int l = 0; l < 8; l++) sums[l] += w[l];
    for (int l = 0; l < 8; l++) job->sum += sums[l];
}

/* read(buffer, threads): reads every word once, for measuring how fast memory is. */
static PyObject *py_read(PyObject *self, PyObject *args) {
    (void)self;
    PyObject *object;
    Py_buffer view;
    int threads;
    if (!PyArg_ParseTuple(args, "Oi:read", &object, &threads) ||
        PyObject_GetBuffer(object, &view, PyBUF_SIMPLE))
        return NULL;
    Reading job = {.words = view.buf, .blocks = view.len / 65536};
    Py_BEGIN_ALLOW_THREADS in_parallel(read_task, &job, threads);
    Py_END_ALLOW_THREADS PyBuffer_Release(&view);
    return PyLong_FromUnsignedLongLong(job.sum);
}

static PyMethodDef METHODS[] = {
    {"kernels", py_kernels, METH_NOARGS, "Names of the kernels that run here, fastest first."},
    {"encode", py_encode, METH_VARARGS, "Rows to halves, codes and error lengths."},
    {"search", py_search, METH_VARARGS, "The best rows for each probe, proven."},
    {"bounds", py_bounds, METH_VARARGS, "Estimates and margins of every template."},
    {"choose", py_choose, METH_VARARGS, "Bits of the places that hold certain ids."},
    {"find", py_find, METH_VARARGS, "Live places of certain ids."},
    {"read", py_read, METH_VARARGS, "The sum of a buffer's words: reads it all, once."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef MODULE = {
    PyModuleDef_HEAD_INIT, "_kernel", NULL, 0, METHODS, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__kernel(void) {
    static int prepared;
    if (!prepared++) pthread_atfork(NULL, NULL, forget_workers);
    return PyModule_Create(&MODULE);
}
