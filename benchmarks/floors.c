/* The copies and system calls of a batch, and nothing else, for floors.py. Not part of the library. */

#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

/* A map of the whole file, or NULL. */
char *floor_map(int number, size_t size)
{
    char *base = (char *)mmap(NULL, size, PROT_READ, MAP_SHARED, number, 0);
    return base == MAP_FAILED ? NULL : base;
}

/* Each function reads `count` ranges of `size` bytes into `out`, and returns how many of them failed. */

int floor_copy(const char *base, const int64_t *places, int count, size_t size, char *out)
{
    for (int each = 0; each < count; each++)
        memcpy(out + each * size, base + places[each], size);
    return 0;
}

int floor_pread(int number, const int64_t *places, int count, size_t size, char *out)
{
    int missed = 0;
    for (int each = 0; each < count; each++)
        missed += pread(number, out + each * size, size, places[each]) != (ssize_t)size;
    return missed;
}

/* One byte each, always the same one: the cost of a call with next to nothing to copy. */
int floor_calls(int number, const int64_t *places, int count, size_t size, char *out)
{
    int missed = 0;
    (void)size;
    for (int each = 0; each < count; each++)
        missed += pread(number, out, 1, places[0]) != 1;
    return missed;
}

/* Map the file for this batch, and copy the ranges. */
int floor_faults(int number, const int64_t *places, int count, size_t size, char *out, size_t length)
{
    char *base = floor_map(number, length);
    if (base == NULL)
        return count;
    floor_copy(base, places, count, size, out);
    munmap(base, length);
    return 0;
}

/* Announce all ranges, then read them all. */
int floor_announced(int number, const int64_t *places, int count, size_t size, char *out)
{
    for (int each = 0; each < count; each++)
        posix_fadvise(number, places[each], (off_t)size, POSIX_FADV_WILLNEED);
    return floor_pread(number, places, count, size, out);
}

struct work {
    int number;
    const int64_t *places;
    int count;
    size_t size;
    char *out;
    int next;
    int missed;
};

static void *worker(void *given)
{
    struct work *work = (struct work *)given;
    int each;
    while ((each = __atomic_fetch_add(&work->next, 1, __ATOMIC_RELAXED)) < work->count)
        if (pread(work->number, work->out + each * work->size, work->size, work->places[each]) != (ssize_t)work->size)
            __atomic_fetch_add(&work->missed, 1, __ATOMIC_RELAXED);
    return NULL;
}

/* Read with this many threads, which are started and joined here. */
int floor_threads(int number, const int64_t *places, int count, size_t size, char *out, int threads)
{
    struct work work = {number, places, count, size, out, 0, 0};
    pthread_t started[64];
    int made = 0;
    while (made < threads && made < 64 && pthread_create(&started[made], NULL, worker, &work) == 0)
        made++;
    for (int each = 0; each < made; each++)
        pthread_join(started[each], NULL);
    return work.missed + (work.next < count ? count - work.next : 0);
}
