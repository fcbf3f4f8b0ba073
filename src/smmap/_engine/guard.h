/* Reading from maps of files that others truncate: aborting the read when the kernel sends SIGBUS. Used by fast.pyx.

   A map has no bytes past the end of its file. A thread that touches a page there gets SIGBUS. The functions under
   "Reads" mark, for their thread, the range that they read; if a fault is in that range, the handler under "The
   handler" aborts the read. The map stays as it is. Any other fault is passed on to the previous handler.

   The page in which the file ends has zeros after the end, and does not fault. So each read checks the last byte
   that it took: if that is zero, it touches the next page, which is gone too if the file was truncated within this one.
   If there is no next page in the map, the caller has to check the file's size.

   The handler only calls async-signal-safe functions, takes no lock and allocates nothing. The functions under
   "Changing what the handler sees" are called with the interpreter's lock; where there is none, with `smmap_slots`. */

#ifndef SMMAP_GUARD_H
#define SMMAP_GUARD_H

#include "threads.h"

#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* GCC's own jumps save the necessary state in the function's frame: 0.3 ns, where sigsetjmp takes 4. Neither saves
   the signal mask: SIGBUS is not blocked while its handler runs (SA_NODEFER). */
#if defined(__GNUC__) && !defined(__clang__) && defined(__x86_64__) && !defined(SMMAP_LIBC_JUMPS)
typedef void *smmap_jump[5];
typedef void **smmap_target;
#define SMMAP_MARKED(jump) __builtin_setjmp(jump)
#define SMMAP_LEAVE(target) __builtin_longjmp(target, 1)
#else
typedef sigjmp_buf smmap_jump;
typedef sigjmp_buf *smmap_target;
#define SMMAP_MARKED(jump) sigsetjmp(jump, 0)
#define SMMAP_LEAVE(target) siglongjmp(*(target), 1)
#endif

/* glibc allocates the thread-local data of a library at its first use, with malloc, unless it is asked not to. */
#ifdef __GLIBC__
#define SMMAP_THREAD static __thread __attribute__((tls_model("initial-exec")))
#else
#define SMMAP_THREAD static __thread
#endif

/* The state of a thread. Only the thread itself, and the handler in it, use it. */
SMMAP_THREAD struct {
    const char *volatile low; /* the read that can be aborted: [low, high); high is NULL if there is none */
    const char *volatile high;
    void *volatile jump;
    void *again;   /* the place of the last fault that was passed on, */
    int times;     /* how often in a row it was there, */
    int passing;   /* how many handlers of the chain are running */
    void *info;    /* on this signal, */
    void *frame;   /* which our handler got in this frame */
} smmap_thread;

/* A map whose views are guarded, too: the handler finds it from the moment when `low` is set until it is NULL. */
struct smmap_slot {
    char *low;
    size_t size;
    void *region; /* borrowed */
    int zeroed;   /* the handler mapped zeros into it */
    struct smmap_slot *next; /* of those that are free */
};

enum { SMMAP_SLOTS = 512, SMMAP_KEPT = 4, SMMAP_CHAINS = 16, SMMAP_TIMES = 100 };

struct smmap_block { /* never freed */
    struct smmap_block *next;
    struct smmap_slot slots[SMMAP_SLOTS];
};

/* The handlers before ours; the one found last is at the end. An entry is never changed once it is in force. */
struct smmap_chain {
    int count;
    struct sigaction before[SMMAP_KEPT];
};

static struct smmap_block *smmap_blocks;
static struct smmap_slot *smmap_free_slots;
static struct smmap_chain smmap_chains[SMMAP_CHAINS];
static unsigned smmap_chain_now;
static uintptr_t smmap_page = 4096;
static smmap_mutex smmap_slots __attribute__((unused)); /* guards everything here except what the handler reads */
static int smmap_zeroed; /* 1: a slot was zeroed since the last search for such slots; 2: a thread is searching now */

/* ---- Reads ---- */

enum {
    SMMAP_READ = 0,
    SMMAP_GONE = 1,  /* it was aborted: some of it is past the end of the file */
    SMMAP_DOUBT = 2, /* the last byte is zero, and there is no next page in the map: check the file's size */
};

/* From here to SMMAP_STOP, leave the function with this result if a read from [from, to) faults. The call that is
   never made keeps the exit alive: the compiler thinks that only calls can take it. */
#define SMMAP_START(result, from, to)                                                                                 \
    smmap_jump jump;                                                                                                  \
    int never = 0;                                                                                                    \
    __asm__ volatile("" : "+r"(never));                                                                               \
    smmap_thread.jump = (void *)&jump;                                                                                \
    smmap_thread.low = (const char *)(from);                                                                          \
    smmap_thread.high = (const char *)(to);                                                                           \
    if (SMMAP_MARKED(jump)) {                                                                                         \
        smmap_thread.high = NULL;                                                                                     \
        return result;                                                                                                \
    }                                                                                                                 \
    if (__builtin_expect(never, 0))                                                                                   \
        smmap_never();                                                                                                \
    __atomic_signal_fence(__ATOMIC_SEQ_CST)

#define SMMAP_STOP                                                                                                    \
    __atomic_signal_fence(__ATOMIC_SEQ_CST);                                                                          \
    smmap_thread.high = NULL

/* In its own frame: a jump back into a function that was inlined into another one would find the frame changed. */
#define SMMAP_ALONE static __attribute__((noinline))

SMMAP_ALONE void smmap_never(void)
{
    __asm__ volatile("" ::: "memory");
}

/* The result of a read whose last byte was this one, in a map that can be touched up to `edge` (NULL: it is not
 * guarded).
   Checked after everything else: a page that is there now was there before. */
static inline int smmap_look_back(const char *last, const char *edge)
{
    const char *next;
    __atomic_thread_fence(__ATOMIC_ACQUIRE);
    if (*(const volatile char *)last == 0 && edge != NULL) {
        next = (const char *)(((uintptr_t)last | (smmap_page - 1)) + 1);
        if (next >= edge)
            return SMMAP_DOUBT;
        smmap_thread.high = next + 1;
        __atomic_signal_fence(__ATOMIC_SEQ_CST);
        (void)*(const volatile char *)next;
    }
    return __atomic_load_n(&smmap_zeroed, __ATOMIC_ACQUIRE) ? SMMAP_DOUBT : SMMAP_READ;
}

/* memcpy, of at least one byte. */
SMMAP_ALONE int smmap_copy(void *to, const char *from, size_t size, const char *edge)
{
    int found;
    SMMAP_START(SMMAP_GONE, from, from + size);
    memcpy(to, from, size);
    found = smmap_look_back(from + size - 1, edge);
    SMMAP_STOP;
    return found;
}

/* `count` bytes (at least one) that are `step` bytes apart, which may be negative. */
SMMAP_ALONE int smmap_copy_steps(char *to, const char *from, ptrdiff_t count, ptrdiff_t step, const char *edge)
{
    const char *last = from + (count - 1) * step, *low = step > 0 ? from : last, *high = step > 0 ? last : from;
    ptrdiff_t place;
    int found;
    SMMAP_START(SMMAP_GONE, low, high + 1);
    for (place = 0; place < count; place++)
        to[place] = ((const volatile char *)from)[place * step];
    found = smmap_look_back(high, edge);
    SMMAP_STOP;
    return found;
}

/* Puts into `place` where the needle (not empty) is first found in [low, high), which is not empty either, or NULL. */
SMMAP_ALONE int smmap_search(
    const char **place, const char *low, const char *high, const char *needle, size_t size, const char *edge)
{
    const char *first;
    int found;
    SMMAP_START(SMMAP_GONE, low, high);
    if (size == 1)
        first = (const char *)memchr(low, needle[0], (size_t)(high - low));
    else
        first = (const char *)memmem(low, (size_t)(high - low), needle, size);
    *place = first;
    found = smmap_look_back(first == NULL ? high - 1 : first + size - 1, edge);
    SMMAP_STOP;
    return found;
}

/* One byte, as a number; or -SMMAP_GONE or -SMMAP_DOUBT (it was 0, or zeros were mapped somewhere in the meantime). */
SMMAP_ALONE int smmap_byte(const char *from, const char *edge)
{
    int byte, found;
    SMMAP_START(-SMMAP_GONE, from, from + 1);
    byte = *(const volatile unsigned char *)from;
    if (byte == 0 || __atomic_load_n(&smmap_zeroed, __ATOMIC_RELAXED)) {
        found = smmap_look_back(from, edge);
        if (found != SMMAP_READ)
            byte = -found;
    }
    SMMAP_STOP;
    return byte;
}

/* ---- The handler ---- */

static void smmap_on_fault(int number, siginfo_t *info, void *context);

static int smmap_is_fault(const siginfo_t *info)
{
#ifdef __linux__
    return info->si_code > 0;
#else
    return info->si_code != SI_USER && info->si_code != SI_QUEUE;
#endif
}

/* Map zeros over the rest of the guarded map that has this address; return whether there was one. */
static int smmap_zero_rest(char *at)
{
    struct smmap_block *block = __atomic_load_n(&smmap_blocks, __ATOMIC_ACQUIRE);
    for (; block != NULL; block = block->next)
        for (int each = 0; each < SMMAP_SLOTS; each++) {
            struct smmap_slot *slot = &block->slots[each];
            char *low = __atomic_load_n(&slot->low, __ATOMIC_ACQUIRE), *page, *end;
            if (low == NULL || at < low)
                continue;
            end = low + ((__atomic_load_n(&slot->size, __ATOMIC_ACQUIRE) + smmap_page - 1) & ~(smmap_page - 1));
            if (at >= end || __atomic_load_n(&slot->low, __ATOMIC_ACQUIRE) != low)
                continue;
            page = (char *)((uintptr_t)at & ~(smmap_page - 1));
            /* first, so that a thread that reads a zero sees it */
            __atomic_store_n(&slot->zeroed, 1, __ATOMIC_SEQ_CST);
            __atomic_fetch_or(&smmap_zeroed, 1, __ATOMIC_SEQ_CST);
            return mmap(page, (size_t)(end - page), PROT_READ, MAP_PRIVATE | MAP_ANON | MAP_FIXED, -1, 0) != MAP_FAILED;
        }
    return 0;
}

/* What the system does without a handler: the fault happens again, and kills the process. */
static void smmap_by_default(int fault)
{
    struct sigaction none;
    memset(&none, 0, sizeof none);
    none.sa_handler = SIG_DFL;
    sigaction(SIGBUS, &none, NULL);
    if (!fault)
        raise(SIGBUS);
}

/* Call the previous handler; while that one runs, signals that it raises or passes to us go to the one before it.
   (faulthandler, enabled after us, takes our handler for its previous one, and raises the signal again.) */
static void smmap_pass_on(int number, siginfo_t *info, void *context)
{
    struct smmap_chain *chain = &smmap_chains[__atomic_load_n(&smmap_chain_now, __ATOMIC_ACQUIRE)];
    int fault = smmap_is_fault(info), depth = 0, place;
    const char *high = smmap_thread.high;
    struct sigaction action;
    sigset_t mask;
    void *outer_info = smmap_thread.info, *outer_frame = smmap_thread.frame, *frame = __builtin_frame_address(0);

    if (smmap_thread.passing && (uintptr_t)frame < (uintptr_t)outer_frame
        && (info == outer_info || (!fault && info->si_pid == getpid())))
        depth = smmap_thread.passing;
    else if (fault) { /* a handler that repairs nothing and returns would be called again and again */
        smmap_thread.times = info->si_addr == smmap_thread.again ? smmap_thread.times + 1 : 1;
        smmap_thread.again = info->si_addr;
        if (smmap_thread.times > SMMAP_TIMES) {
            smmap_by_default(fault);
            return;
        }
    }
    place = chain->count - 1 - depth;
    if (place >= 0)
        action = chain->before[place];
    if (place < 0 || (!(action.sa_flags & SA_SIGINFO) && action.sa_handler == SIG_DFL)) {
        smmap_by_default(fault);
        return;
    }
    if (!(action.sa_flags & SA_SIGINFO) && action.sa_handler == SIG_IGN) {
        if (fault) /* the system does not allow ignoring a fault */
            smmap_by_default(fault);
        return;
    }
    if (action.sa_flags & SA_RESETHAND) { /* as the system does for a handler that must be called once */
        struct sigaction none;
        memset(&none, 0, sizeof none);
        none.sa_handler = SIG_DFL;
        sigaction(SIGBUS, &none, NULL);
    }
    smmap_thread.high = NULL; /* it may never return */
    smmap_thread.passing = depth + 1;
    smmap_thread.info = info;
    smmap_thread.frame = frame;
    if (!(action.sa_flags & SA_NODEFER))
        sigaddset(&action.sa_mask, SIGBUS);
    pthread_sigmask(SIG_BLOCK, &action.sa_mask, &mask);
    if (action.sa_flags & SA_SIGINFO)
        action.sa_sigaction(number, info, context);
    else
        action.sa_handler(number);
    pthread_sigmask(SIG_SETMASK, &mask, NULL);
    smmap_thread.passing = depth;
    smmap_thread.info = outer_info;
    smmap_thread.frame = outer_frame;
    smmap_thread.high = high;
}

static void smmap_on_fault(int number, siginfo_t *info, void *context)
{
    int code = errno;
    if (smmap_is_fault(info)) {
        const char *high = smmap_thread.high;
        uintptr_t page = (uintptr_t)info->si_addr & ~(smmap_page - 1); /* some processors report no more */
        if (high != NULL && page < (uintptr_t)high && ((uintptr_t)smmap_thread.low & ~(smmap_page - 1)) <= page) {
            smmap_thread.high = NULL;
            errno = code;
            SMMAP_LEAVE((smmap_target)smmap_thread.jump);
        }
        if (smmap_zero_rest((char *)info->si_addr)) {
            errno = code;
            return;
        }
    }
    smmap_pass_on(number, info, context);
    errno = code;
}

/* ---- Changing what the handler sees ---- */

/* Install the handler, on top of any that was set in the meantime. */
static void smmap_install(void)
{
    struct sigaction now, ours;
    struct smmap_chain *old = &smmap_chains[smmap_chain_now], *new;
    unsigned next = (smmap_chain_now + 1) % SMMAP_CHAINS;
    int each;

    if (sigaction(SIGBUS, NULL, &now) || ((now.sa_flags & SA_SIGINFO) && now.sa_sigaction == smmap_on_fault))
        return;
    smmap_page = (uintptr_t)sysconf(_SC_PAGESIZE);
    new = &smmap_chains[next];
    new->count = 0;
    if ((now.sa_flags & SA_SIGINFO) || (now.sa_handler != SIG_DFL && now.sa_handler != SIG_IGN))
        for (each = 0; each < old->count; each++) {
            const struct sigaction *before = &old->before[each];
            int same = (before->sa_flags & SA_SIGINFO) == (now.sa_flags & SA_SIGINFO)
                && (now.sa_flags & SA_SIGINFO ? before->sa_sigaction == now.sa_sigaction
                                              : before->sa_handler == now.sa_handler);
            if (!same && new->count < SMMAP_KEPT - 1)
                new->before[new->count++] = *before;
        }
    new->before[new->count++] = now;
    __atomic_store_n(&smmap_chain_now, next, __ATOMIC_RELEASE);
    memset(&ours, 0, sizeof ours);
    ours.sa_sigaction = smmap_on_fault;
    ours.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER | (now.sa_flags & SA_RESTART);
    sigemptyset(&ours.sa_mask);
    sigaction(SIGBUS, &ours, NULL);
}

/* Guard the views of a map. NULL: no memory. */
static struct smmap_slot *smmap_take_slot(char *low, size_t size, void *region)
{
    struct smmap_slot *slot = smmap_free_slots;
    if (slot == NULL) {
        struct smmap_block *block = (struct smmap_block *)calloc(1, sizeof *block);
        if (block == NULL)
            return NULL;
        for (int each = 0; each < SMMAP_SLOTS; each++) {
            block->slots[each].next = slot;
            slot = &block->slots[each];
        }
        block->next = smmap_blocks;
        __atomic_store_n(&smmap_blocks, block, __ATOMIC_RELEASE);
    }
    smmap_free_slots = slot->next;
    slot->region = region;
    slot->zeroed = 0;
    __atomic_store_n(&slot->size, size, __ATOMIC_RELEASE);
    __atomic_store_n(&slot->low, low, __ATOMIC_RELEASE);
    return slot;
}

/* Called before its map is unmapped. */
static void smmap_give_slot(struct smmap_slot *slot)
{
    __atomic_store_n(&slot->low, (char *)NULL, __ATOMIC_SEQ_CST);
    slot->next = smmap_free_slots;
    smmap_free_slots = slot;
}

static int smmap_any_zeroed(void)
{
    return __atomic_load_n(&smmap_zeroed, __ATOMIC_RELAXED);
}

/* In the child of a fork: a thread of the parent may have been in the middle of a change. */
static void smmap_after_fork(void)
{
    static const smmap_mutex free_again;
    smmap_slots = free_again;
    __atomic_store_n(&smmap_zeroed, 1, __ATOMIC_SEQ_CST); /* check all of them again */
}

/* From here on, until `smmap_stop_taking`: take note of zeroed slots. All reads in the meantime are in doubt. */
static void smmap_start_taking(void)
{
    __atomic_store_n(&smmap_zeroed, 2, __ATOMIC_SEQ_CST);
}

static void smmap_stop_taking(void)
{
    __atomic_fetch_and(&smmap_zeroed, ~2, __ATOMIC_SEQ_CST);
}

/* The regions that were zeroed since the last call, at most `most`; returns how many there are, which may be more. */
static size_t smmap_take_zeroed(void **regions, size_t most)
{
    struct smmap_block *block;
    size_t count = 0;
    for (block = smmap_blocks; block != NULL; block = block->next)
        for (int each = 0; each < SMMAP_SLOTS; each++) {
            struct smmap_slot *slot = &block->slots[each];
            if (slot->low == NULL || !__atomic_load_n(&slot->zeroed, __ATOMIC_SEQ_CST))
                continue;
            if (count < most) {
                regions[count] = slot->region;
                __atomic_store_n(&slot->zeroed, 0, __ATOMIC_SEQ_CST);
            } else
                __atomic_fetch_or(&smmap_zeroed, 1, __ATOMIC_SEQ_CST);
            count++;
        }
    return count;
}

#endif
