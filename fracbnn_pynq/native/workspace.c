/* One block of memory per thread, kept until the thread ends. */
#include "fracbnn.h"

#include <pthread.h>
#include <stdlib.h>

struct block {
    int64_t size;
    void *memory;
};

static pthread_key_t key;
static pthread_once_t once = PTHREAD_ONCE_INIT;
static int ready;

static void release(void *value)
{
    struct block *block = value;
    free(block->memory);
    free(block);
}

static void make_key(void)
{
    ready = pthread_key_create(&key, release) == 0;
}

void *fb_reserve(int64_t size)
{
    pthread_once(&once, make_key);
    if (!ready)
        return NULL;
    struct block *block = pthread_getspecific(key);
    if (block == NULL) {
        block = calloc(1, sizeof *block);
        if (block == NULL || pthread_setspecific(key, block) != 0) {
            free(block);
            return NULL;
        }
    }
    if (block->size < size) {
        int64_t whole = (size + 63) & ~(int64_t)63;
        free(block->memory);
        block->memory = aligned_alloc(64, (size_t)whole);
        block->size = block->memory == NULL ? 0 : whole;
    }
    return block->memory;
}
