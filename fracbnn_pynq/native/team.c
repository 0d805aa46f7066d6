/* Threads that share work. */
#include "team.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

#if defined(__x86_64__)
#define RELAX() __builtin_ia32_pause()
#elif defined(__aarch64__)
#define RELAX() __asm__ volatile("yield")
#else
#define RELAX() ((void)0)
#endif

enum {
    PIECE_BITS = 20,
    SPINS = 20000, /* half a millisecond: longer than what one thread does alone, and than the longest piece takes */
};

#define PIECES ((UINT64_C(1) << PIECE_BITS) - 1)

struct fb_team {
    int pieces;
    _Atomic int64_t picture;
    /* What is on offer, in one word, so that a piece is taken of the work it was seen in: the work's number, how many
     * pieces it has, and the next one. */
    _Atomic uint64_t offer;
    _Atomic int64_t done;
    _Atomic int dismissed, sleepers;
    fb_work *work; /* written while no piece is on offer or in work */
    void *context;
    pthread_mutex_t lock;
    pthread_cond_t changed;
};

struct fb_team *fb_new_team(int pieces)
{
    struct fb_team *team = calloc(1, sizeof *team);
    if (team == NULL)
        return NULL;
    team->pieces = pieces;
    if (pthread_mutex_init(&team->lock, NULL) != 0) {
        free(team);
        return NULL;
    }
    if (pthread_cond_init(&team->changed, NULL) != 0) {
        pthread_mutex_destroy(&team->lock);
        free(team);
        return NULL;
    }
    return team;
}

void fb_free_team(struct fb_team *team)
{
    pthread_cond_destroy(&team->changed);
    pthread_mutex_destroy(&team->lock);
    free(team);
}

int64_t fb_next_picture(struct fb_team *team, int64_t before)
{
    return team == NULL || team->pieces ? before + 1 : atomic_fetch_add(&team->picture, 1);
}

static int64_t pieces_of(uint64_t offer)
{
    return (int64_t)(offer >> PIECE_BITS & PIECES);
}

static int64_t next_piece(uint64_t offer)
{
    return (int64_t)(offer & PIECES);
}

static int on_offer(uint64_t offer)
{
    return next_piece(offer) < pieces_of(offer);
}

static int is_done(struct fb_team *team)
{
    return atomic_load(&team->done) == pieces_of(atomic_load(&team->offer));
}

static int is_wanted(struct fb_team *team)
{
    return on_offer(atomic_load(&team->offer)) || atomic_load(&team->dismissed);
}

/* Wait until `ready`: spin briefly, then sleep. Whoever makes it so calls wake(). */
static void wait_until(struct fb_team *team, int (*ready)(struct fb_team *))
{
    for (int i = 0; i < SPINS; i++) {
        if (ready(team))
            return;
        RELAX();
    }
    pthread_mutex_lock(&team->lock);
    atomic_fetch_add(&team->sleepers, 1);
    while (!ready(team))
        pthread_cond_wait(&team->changed, &team->lock);
    atomic_fetch_sub(&team->sleepers, 1);
    pthread_mutex_unlock(&team->lock);
}

/* A sleeper counts itself before it looks, and this looks after the change: one of the two sees the other. */
static void wake(struct fb_team *team)
{
    if (atomic_load(&team->sleepers) == 0)
        return;
    pthread_mutex_lock(&team->lock);
    pthread_cond_broadcast(&team->changed);
    pthread_mutex_unlock(&team->lock);
}

/* Which piece to take as number `n`: from the first and the second half in turn. Threads work on consecutive numbers at
 * the same time, and what neighbouring pieces write often lies in one line of the cache, which they would take from
 * each other with every write. */
static int64_t apart(int64_t n, int64_t pieces)
{
    return n / 2 + (n % 2 ? (pieces + 1) / 2 : 0);
}

/* Do pieces while there are any. */
static void work_along(struct fb_team *team)
{
    uint64_t offer = atomic_load(&team->offer);
    while (on_offer(offer)) {
        if (!atomic_compare_exchange_weak(&team->offer, &offer, offer + 1))
            continue;
        const int64_t pieces = pieces_of(offer);
        /* The work stays as it is until this piece is done. */
        team->work(team->context, apart(next_piece(offer), pieces));
        const int64_t done = atomic_fetch_add(&team->done, 1) + 1;
        if (done == pieces)
            wake(team);
        offer = atomic_load(&team->offer);
    }
}

void fb_share(struct fb_team *team, int64_t pieces, fb_work *work, void *context)
{
    if (team == NULL || !team->pieces || pieces < 2 || (uint64_t)pieces > PIECES) {
        for (int64_t piece = 0; piece < pieces; piece++)
            work(context, piece);
        return;
    }
    const uint64_t number = (atomic_load(&team->offer) >> 2 * PIECE_BITS) + 1;
    team->work = work;
    team->context = context;
    atomic_store(&team->done, 0);
    atomic_store(&team->offer, number << 2 * PIECE_BITS | (uint64_t)pieces << PIECE_BITS);
    wake(team);
    work_along(team);
    wait_until(team, is_done);
}

void fb_help(struct fb_team *team)
{
    while (!atomic_load(&team->dismissed)) {
        wait_until(team, is_wanted);
        work_along(team);
    }
}

void fb_dismiss(struct fb_team *team)
{
    atomic_store(&team->dismissed, 1);
    wake(team);
}
