/* Stand-in for XRT's libxrt_core.so on an embedded device: buffer objects are pieces of physical memory, a file.
 *
 * A buffer is strict: what the CPU maps is a copy, which only xclSyncBO moves to physical memory or back, as if every
 * byte stayed in the cache. A freed buffer is unmapped. Names, arguments and error numbers are those of XRT's public
 * xrt.h, as far as pynq 3.0 uses them; pyxrt.py is built on the same functions. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define BUFFERS 256
#define PAGE 4096ull
#define CMA 0x60000000ull
#define CMA_BYTES 0x10000000ull
#define MANAGER "/sys/class/fpga_manager/fpga0/"

struct properties {
    uint32_t handle, flags;
    uint64_t size, address;
    uint32_t domain;
};

static struct {
    size_t size;
    uint64_t address;
    char *device, *host;
} buffers[BUFFERS];
static uint64_t synced;

static void *map_memory(uint64_t address, size_t size)
{
    int file = open("/dev/mem", O_RDWR);
    void *at = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, file, (off_t)address);
    close(file);
    return at == MAP_FAILED ? NULL : at;
}

/* Where the next buffer lies. All processes share one counter, which goes round: 256 MiB of buffers later an address is
 * given again, whether or not its buffer has been freed. CMA is full when this process alone has as much. */
static uint64_t take_address(size_t size)
{
    static _Atomic uint64_t *next;
    if (!next) {
        int file = open("/run/emulated-cma", O_RDWR | O_CREAT, 0600);
        if (ftruncate(file, (off_t)PAGE))
            return 0;
        next = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
        close(file);
    }
    uint64_t used = 0, at;
    for (int b = 1; b < BUFFERS; b++)
        used += buffers[b].size;
    if (used + size > CMA_BYTES)
        return 0;
    do
        at = __atomic_fetch_add((uint64_t *)next, size, __ATOMIC_SEQ_CST) % CMA_BYTES;
    while (at + size > CMA_BYTES);
    return CMA + at;
}

void *xclOpen(unsigned index, const char *log, int level)
{
    (void)log, (void)level;
    return index == 0 && access("/dev/dri/renderD128", F_OK) == 0 ? buffers : NULL;
}

void xclClose(void *device)
{
    (void)device;
}

int xclGetDeviceInfo2(void *device, void *info)
{
    (void)device;
    strcpy((char *)info + 4, "edge");
    return 0;
}

unsigned xclAllocBO(void *device, size_t size, int unused, unsigned flags)
{
    (void)unused, (void)flags;
    if (!device)
        return (unsigned)-EINVAL;
    size = (size + PAGE - 1) & ~(PAGE - 1);
    for (unsigned b = 1; b < BUFFERS; b++) {
        if (buffers[b].size)
            continue;
        uint64_t address = take_address(size);
        char *memory = address ? map_memory(address, size) : NULL;
        if (!memory)
            return (unsigned)-ENOMEM;
        memset(memory, 0, size); /* as the kernel does */
        buffers[b].size = size, buffers[b].address = address, buffers[b].device = memory;
        return b;
    }
    return (unsigned)-ENOMEM;
}

void *xclMapBO(void *device, unsigned b, int write)
{
    (void)device, (void)write;
    buffers[b].host = mmap(NULL, buffers[b].size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return buffers[b].host;
}

int xclGetBOProperties(void *device, unsigned b, struct properties *found)
{
    (void)device;
    if (b >= BUFFERS || !buffers[b].size)
        return -EINVAL;
    memset(found, 0, sizeof *found);
    found->handle = b, found->size = buffers[b].size, found->address = buffers[b].address;
    return 0;
}

unsigned xclSyncBO(void *device, unsigned b, int direction, size_t size, size_t offset)
{
    (void)device;
    if (b >= BUFFERS || !buffers[b].size || offset + size > buffers[b].size)
        return (unsigned)-EINVAL;
    synced += size;
    if (direction == 0)
        memcpy(buffers[b].device + offset, buffers[b].host + offset, size);
    else
        memcpy(buffers[b].host + offset, buffers[b].device + offset, size);
    return 0;
}

/* The CPU's mapping is the caller's to remove. */
void xclFreeBO(void *device, unsigned b)
{
    (void)device;
    if (b < BUFFERS && buffers[b].size) {
        munmap(buffers[b].device, buffers[b].size);
        memset(&buffers[b], 0, sizeof buffers[b]);
    }
}

int xclLockDevice(void *device)
{
    (void)device;
    return 0;
}

int xclUnlockDevice(void *device)
{
    (void)device;
    return 0;
}

/* Waits until the programmable logic has taken what was written to the FPGA manager: here that is a plain file, which
 * cannot answer. */
int xclLoadXclBin(void *device, const char *container)
{
    if (!device)
        return -EINVAL;
    if (memcmp(container, "xclbin2", 8))
        return -EINVAL;
    for (int i = 0; i < 5000; i++, usleep(1000)) {
        struct stat request;
        long long taken = 0;
        char state[32] = "";
        FILE *file = fopen("/run/fabric/taken", "r");
        if (!file || fscanf(file, "%lld", &taken) != 1)
            taken = 0;
        if (file)
            fclose(file);
        if (stat(MANAGER "firmware", &request) || S_ISCHR(request.st_mode))
            return -EIO;
        if (taken != request.st_mtim.tv_sec * 1000000000ll + request.st_mtim.tv_nsec)
            continue;
        file = fopen(MANAGER "state", "r");
        if (file && !fgets(state, sizeof state, file))
            state[0] = 0;
        if (file)
            fclose(file);
        return strncmp(state, "operating", 9) ? -EIO : 0;
    }
    return -ETIMEDOUT;
}

/* For tests: how many bytes this process has moved; and has in buffers. */
uint64_t emulated_synced(void)
{
    return synced;
}

uint64_t emulated_bytes(void)
{
    uint64_t sum = 0;
    for (int b = 1; b < BUFFERS; b++)
        sum += buffers[b].size;
    return sum;
}
