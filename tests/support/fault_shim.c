/* Makes the n-th open, write, fsync, rename or link below a folder fail, or kills the process in the middle of it.
   Preloaded into a test's process; armed and read through ctypes. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

enum { COUNT = 0, FAIL = 1, KILL = 2 };

static char prefix[4096];
static long calls, target;
static int mode, error_number;

static int was_read;

void fault_arm(const char *folder, long n, int what, int number) {
    strncpy(prefix, folder, sizeof prefix - 1);
    calls = 0, target = n, mode = what, error_number = number, was_read = 0;
}

/* Whether what failed was an attempt to open something to read. */
int fault_was_read(void) { return was_read; }

long fault_calls(void) { return calls; }

void fault_disarm(void) { prefix[0] = 0; }

static int below(const char *path) { return prefix[0] && strncmp(path, prefix, strlen(prefix)) == 0; }

/* 1: this call is the one. */
static int due(void) { return ++calls == target && mode != COUNT; }

static int due_for(int fd) {
    char link[64], path[4096];
    if (!prefix[0]) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, sizeof path - 1);
    if (n < 0) return 0;
    path[n] = 0;
    return below(path) && due();
}

static int give_up(void) {
    if (mode == KILL) kill(getpid(), SIGKILL);
    errno = error_number;
    return -1;
}

#define REAL(name) __typeof__(&name) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

ssize_t write(int fd, const void *data, size_t size) {
    REAL(write);
    if (!due_for(fd)) return real(fd, data, size);
    real(fd, data, size / 2); /* what a full disk and a killed process leave */
    return give_up();
}

ssize_t writev(int fd, const struct iovec *parts, int n) {
    REAL(writev);
    if (!due_for(fd)) return real(fd, parts, n);
    real(fd, parts, n / 2);
    return give_up();
}

ssize_t pwrite64(int fd, const void *data, size_t size, off64_t at) {
    REAL(pwrite64);
    return due_for(fd) ? give_up() : real(fd, data, size, at);
}

int fsync(int fd) {
    REAL(fsync);
    return due_for(fd) ? give_up() : real(fd);
}

int rename(const char *from, const char *to) {
    REAL(rename);
    return below(to) && due() ? give_up() : real(from, to);
}

int link(const char *from, const char *to) {
    REAL(link);
    return below(to) && due() ? give_up() : real(from, to);
}

/* Opening to read runs out of descriptors, not of space. */
static int give_up_open(int flags) {
    give_up();
    if (!(flags & (O_CREAT | O_TRUNC))) errno = EMFILE, was_read = 1;
    return -1;
}

#define OPEN(name)                                                           \
    int name(const char *path, int flags, ...) {                             \
        REAL(name);                                                          \
        va_list rest;                                                        \
        va_start(rest, flags);                                               \
        mode_t rights = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, mode_t) : 0; \
        va_end(rest);                                                        \
        return below(path) && due() ? give_up_open(flags) : real(path, flags, rights); \
    }
OPEN(open)
OPEN(open64)
