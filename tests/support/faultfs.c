/* A disk that fails at its Nth operation: preloaded into a test process, armed by it through ctypes.
 *
 * Operations on files below one directory are counted, of the classes in `classes`; the Nth fails. With `sticky` all
 * from there on fail, until faultfs_disarm. What is asked of memory-mapped pages is not seen. Nothing is ever synced to
 * the real disk, which makes a run quick: these tests kill processes and fail calls, they do not cut the power.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

enum { READ = 1, WRITE = 2, SYNC = 4, RESIZE = 8, NAME = 16, OPEN = 32 };
enum { FAIL, SHORT, DIE, TORN };
enum { FILES = 4096 };

static char directory[4096];
static size_t directory_length;
static char ours[FILES];
static int armed, classes, action, error_number, sticky, broken, full_next;
static long nth, count;
static char hit[64];

static void *next(const char *name) {
    void *found = dlsym(RTLD_NEXT, name);
    if (!found) _exit(99);
    return found;
}
/* `real`: the same function of the C library. */
#define NEXT(function) static __typeof__(&function) real; if (!real) real = (__typeof__(&function))next(#function)

void faultfs_arm(const char *below, long number, int of, int what, int error, int stays) {
    snprintf(directory, sizeof directory, "%s/", below);
    directory_length = strlen(directory);
    nth = number, classes = of, action = what, error_number = error, sticky = stays;
    count = broken = full_next = 0;
    hit[0] = 0;
    armed = 1;
}
/* The disk works again; counting goes on. */
void faultfs_disarm(void) { nth = -1, broken = full_next = 0; }
/* While paused, the test itself looks at the files. */
void faultfs_pause(int yes) { armed = !yes && directory_length; }
long faultfs_count(void) { return count; }
const char *faultfs_hit(void) { return hit; }

static int below(const char *path) { return directory_length && !strncmp(path, directory, directory_length); }
static int is_ours(int fd) { return fd >= 0 && fd < FILES && ours[fd]; }

/* Whether this operation fails; errno is set. DIE does not return. */
static int fails(int class, const char *what) {
    if (!armed || !(class & classes)) return 0;
    if (full_next && class == WRITE) {
        full_next = 0;
        errno = ENOSPC;
        return 1;
    }
    if (++count != nth && !broken) return 0;
    if (!hit[0]) snprintf(hit, sizeof hit, "%s", what);
    if (action == DIE) _exit(86);
    broken = sticky;
    errno = error_number;
    return 1;
}

static int opened(int fd, const char *path) {
    if (fd >= 0 && fd < FILES) ours[fd] = below(path);
    return fd;
}

#define OPENER(function)                                                                                               \
    int function(const char *path, int flags, ...) {                                                                   \
        NEXT(function);                                                                                                \
        va_list rest;                                                                                                  \
        va_start(rest, flags);                                                                                         \
        mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, mode_t) : 0;                                        \
        va_end(rest);                                                                                                  \
        if (below(path) && fails(flags & O_CREAT ? NAME : OPEN, path + directory_length)) return -1;                   \
        return opened(real(path, flags, mode), path);                                                                  \
    }
OPENER(open)
OPENER(open64)

int __open64_2(const char *path, int flags) { return open64(path, flags); }
int __open_2(const char *path, int flags) { return open64(path, flags); }

int close(int fd) {
    NEXT(close);
    if (fd >= 0 && fd < FILES) ours[fd] = 0;
    return real(fd);
}

/* How many bytes of a write of `size` the disk takes: all, or with errno set -1, or half of them. */
static ssize_t takes(int fd, size_t size, const char *what) {
    if (!is_ours(fd) || !fails(WRITE, what)) return (ssize_t)size;
    if (action == FAIL || errno == ENOSPC) return -1;
    return (ssize_t)(size / 2);
}

static ssize_t wrote(ssize_t written, size_t size) {
    if (written >= 0 && (size_t)written < size) {
        if (action == TORN) _exit(86);
        full_next = 1;
    }
    return written;
}

ssize_t write(int fd, const void *data, size_t size) {
    NEXT(write);
    ssize_t room = takes(fd, size, "write");
    if (room < 0) return -1;
    ssize_t written = real(fd, data, (size_t)room);
    return (size_t)room < size ? wrote(written, size) : written;
}

#define WRITER(function, offset_type)                                                                                  \
    ssize_t function(int fd, const void *data, size_t size, offset_type at) {                                          \
        NEXT(function);                                                                                                \
        ssize_t room = takes(fd, size, "pwrite");                                                                      \
        if (room < 0) return -1;                                                                                       \
        ssize_t written = real(fd, data, (size_t)room, at);                                                            \
        return (size_t)room < size ? wrote(written, size) : written;                                                   \
    }
WRITER(pwrite, off_t)
WRITER(pwrite64, off64_t)

ssize_t read(int fd, void *data, size_t size) {
    NEXT(read);
    return is_ours(fd) && fails(READ, "read") ? -1 : real(fd, data, size);
}

#define READER(function, offset_type)                                                                                  \
    ssize_t function(int fd, void *data, size_t size, offset_type at) {                                                \
        NEXT(function);                                                                                                \
        return is_ours(fd) && fails(READ, "pread") ? -1 : real(fd, data, size, at);                                    \
    }
READER(pread, off_t)
READER(pread64, off64_t)

int fsync(int fd) {
    NEXT(fsync);
    if (!is_ours(fd)) return real(fd);
    return fails(SYNC, "fsync") ? -1 : 0;
}

int fdatasync(int fd) {
    NEXT(fdatasync);
    if (!is_ours(fd)) return real(fd);
    return fails(SYNC, "fdatasync") ? -1 : 0;
}

#define RESIZER(function, offset_type)                                                                                 \
    int function(int fd, offset_type size) {                                                                           \
        NEXT(function);                                                                                                \
        return is_ours(fd) && fails(RESIZE, "ftruncate") ? -1 : real(fd, size);                                        \
    }
RESIZER(ftruncate, off_t)
RESIZER(ftruncate64, off64_t)

int unlink(const char *path) {
    NEXT(unlink);
    return below(path) && fails(NAME, "unlink") ? -1 : real(path);
}

int rename(const char *from, const char *to) {
    NEXT(rename);
    return below(to) && fails(NAME, "rename") ? -1 : real(from, to);
}

int mkdir(const char *path, mode_t mode) {
    NEXT(mkdir);
    return below(path) && fails(NAME, "mkdir") ? -1 : real(path, mode);
}
