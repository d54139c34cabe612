/* Loaded before libc: counts the calls that change files under CRASH_ROOT, and ends or fails the process at one of them.

   What libc does within itself (stdio) is not seen; Python, Rust, PyTorch and libstdc++ call what stands here. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum mode { OFF, KILL, TORN, FAIL_ONCE, FAIL_ON, SHORT };
enum { MOST_DIRTY = 4096 };

struct shared { /* with the process that has forked this one */
    volatile long calls, point, unsynced;
    volatile int mode, error;
    unsigned long dirty[MOST_DIRTY]; /* inodes with content that no fsync has covered */
    long kept[MOST_DIRTY];           /* how much of each was there before */
    char last[64];
};
static struct shared *shared;
static char root[PATH_MAX];
static int is_bystander; /* a process of the task whose calls neither count nor fail */

__attribute__((constructor)) static void begin(void) {
    const char *given = getenv("CRASH_ROOT");
    if (given) strncpy(root, given, sizeof root - 1);
    shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
}

struct shared *crash_shared(void) { return shared; }
void crash_stand_by(void) { is_bystander = 1; }

void crash_arm(long point, int mode, int error) {
    shared->calls = shared->unsynced = 0;
    shared->point = point;
    shared->error = error;
    shared->last[0] = 0;
    shared->mode = mode;
}

static int lies_under_root(const char *path) { return root[0] && !strncmp(path, root, strlen(root)); }

static int is_watched_at(int folder, const char *path) {
    char whole[PATH_MAX * 2], own[64];
    ssize_t length = 0;
    if (!shared || !shared->mode || is_bystander || !path) return 0;
    if (path[0] == '/') return lies_under_root(path);
    if (folder == AT_FDCWD) {
        if (!getcwd(whole, PATH_MAX)) return 0;
        length = (ssize_t)strlen(whole);
    } else {
        snprintf(own, sizeof own, "/proc/self/fd/%d", folder);
        if ((length = readlink(own, whole, PATH_MAX - 1)) < 0) return 0;
    }
    whole[length] = 0;
    return lies_under_root(whole);
}

static int is_watched(int file) {
    char own[64], path[PATH_MAX];
    ssize_t length;
    if (!shared || !shared->mode || is_bystander) return 0;
    snprintf(own, sizeof own, "/proc/self/fd/%d", file);
    if ((length = readlink(own, path, sizeof path - 1)) < 0) return 0;
    path[length] = 0;
    return lies_under_root(path);
}

static void die(void) {
    syscall(SYS_kill, getpid(), SIGKILL);
    for (;;) pause();
}

/* Count a call; true where it is to fail, with errno set. */
static int strikes(const char *name) {
    long number = __sync_fetch_and_add(&shared->calls, 1);
    if (number == shared->point) strncpy(shared->last, name, sizeof shared->last - 1);
    if (shared->mode == KILL || (shared->mode == TORN && strcmp(name, "write"))) {
        if (number == shared->point) die();
        return 0;
    }
    if ((shared->mode == FAIL_ONCE && number == shared->point) || (shared->mode == FAIL_ON && number >= shared->point)) {
        errno = shared->error;
        return 1;
    }
    return 0;
}

static void mark(int file, int is_dirty) {
    struct stat found;
    if (fstat(file, &found)) return;
    for (long place = 0; place < shared->unsynced; place++)
        if (shared->dirty[place] == found.st_ino) {
            if (!is_dirty) shared->dirty[place] = 0;
            return;
        }
    if (!is_dirty || shared->unsynced == MOST_DIRTY) return;
    shared->kept[shared->unsynced] = found.st_size; /* called before the content is written */
    shared->dirty[shared->unsynced++] = found.st_ino;
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))
#define PATH_CALL(name, folder, path, call)                        \
    do {                                                           \
        if (is_watched_at(folder, path) && strikes(#name)) return -1; \
        return call;                                               \
    } while (0)

static int is_change(int flags) { return flags & (O_CREAT | O_TRUNC | O_WRONLY | O_RDWR); }

#define OPENING(name)                                                          \
    int name(const char *path, int flags, ...) {                               \
        va_list list;                                                          \
        va_start(list, flags);                                                 \
        mode_t mode = va_arg(list, mode_t);                                    \
        va_end(list);                                                          \
        if (is_change(flags) && is_watched_at(AT_FDCWD, path) && strikes(#name)) return -1; \
        return REAL(name)(path, flags, mode);                                  \
    }
#define OPENING_AT(name)                                                       \
    int name(int folder, const char *path, int flags, ...) {                   \
        va_list list;                                                          \
        va_start(list, flags);                                                 \
        mode_t mode = va_arg(list, mode_t);                                    \
        va_end(list);                                                          \
        if (is_change(flags) && is_watched_at(folder, path) && strikes(#name)) return -1; \
        return REAL(name)(folder, path, flags, mode);                          \
    }
OPENING(open)
OPENING(open64)
OPENING_AT(openat)
OPENING_AT(openat64)

ssize_t write(int file, const void *content, size_t size) {
    if (is_watched(file)) {
        if (strikes("write")) return -1;
        long number = shared->calls - 1;
        mark(file, 1);
        if (shared->mode == TORN && number == shared->point) {
            REAL(write)(file, content, size / 2);
            die();
        }
        if (shared->mode == SHORT && number == shared->point && size > 1) size /= 2;
    }
    return REAL(write)(file, content, size);
}

ssize_t writev(int file, const struct iovec *parts, int count) {
    if (is_watched(file)) {
        if (strikes("writev")) return -1;
        mark(file, 1);
    }
    return REAL(writev)(file, parts, count);
}

ssize_t pwrite64(int file, const void *content, size_t size, off64_t offset) {
    if (is_watched(file)) {
        if (strikes("pwrite64")) return -1;
        mark(file, 1);
    }
    return REAL(pwrite64)(file, content, size, offset);
}

ssize_t sendfile64(int file, int source, off64_t *offset, size_t size) {
    static ssize_t (*real)(int, int, off64_t *, size_t);
    if (!real) real = (ssize_t(*)(int, int, off64_t *, size_t))dlsym(RTLD_NEXT, "sendfile64");
    if (is_watched(file)) {
        if (strikes("sendfile64")) return -1;
        mark(file, 1);
    }
    return real(file, source, offset, size);
}

static int synced(const char *name, int file, int (*real)(int)) {
    if (!is_watched(file)) return real(file);
    if (strikes(name)) return -1;
    mark(file, 0);
    return 0; /* the disk itself is not what is tested */
}
int fsync(int file) { return synced("fsync", file, REAL(fsync)); }
int fdatasync(int file) { return synced("fdatasync", file, REAL(fdatasync)); }

int ftruncate64(int file, off64_t size) {
    if (is_watched(file) && strikes("ftruncate64")) return -1;
    return REAL(ftruncate64)(file, size);
}
int ftruncate(int file, off_t size) {
    if (is_watched(file) && strikes("ftruncate")) return -1;
    return REAL(ftruncate)(file, size);
}

int rename(const char *from, const char *to) { PATH_CALL(rename, AT_FDCWD, to, REAL(rename)(from, to)); }
int renameat(int a, const char *from, int b, const char *to) { PATH_CALL(renameat, b, to, REAL(renameat)(a, from, b, to)); }
int unlink(const char *path) { PATH_CALL(unlink, AT_FDCWD, path, REAL(unlink)(path)); }
int unlinkat(int folder, const char *path, int flags) { PATH_CALL(unlinkat, folder, path, REAL(unlinkat)(folder, path, flags)); }
int rmdir(const char *path) { PATH_CALL(rmdir, AT_FDCWD, path, REAL(rmdir)(path)); }
int mkdir(const char *path, mode_t mode) { PATH_CALL(mkdir, AT_FDCWD, path, REAL(mkdir)(path, mode)); }
int mkdirat(int folder, const char *path, mode_t mode) { PATH_CALL(mkdirat, folder, path, REAL(mkdirat)(folder, path, mode)); }
int link(const char *from, const char *to) { PATH_CALL(link, AT_FDCWD, to, REAL(link)(from, to)); }
int linkat(int a, const char *from, int b, const char *to, int flags) {
    PATH_CALL(linkat, b, to, REAL(linkat)(a, from, b, to, flags));
}
int symlink(const char *to, const char *path) { PATH_CALL(symlink, AT_FDCWD, path, REAL(symlink)(to, path)); }
int chmod(const char *path, mode_t mode) { PATH_CALL(chmod, AT_FDCWD, path, REAL(chmod)(path, mode)); }
