/* Loaded before libc: counts the calls that change files under CRASH_ROOT, and ends or fails the process at one of them.

   What libc does within itself (stdio) is not seen; Python, Rust, PyTorch and libstdc++ call what stands here.

   A task that is witnessed stops at each of these calls and asks what to do. To each answer it forks a double, which
   meets a fault at that call and goes on, on a copy of the files; the task itself goes on undisturbed. */
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
#include <sys/wait.h>
#include <unistd.h>

enum mode { OFF, KILL, TORN, FAIL_ONCE, FAIL_ON, SHORT, WITNESS };
enum { MOST_DIRTY = 4096, LONGEST_SECONDS = 60 };

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
static int asks = -1, answers = -1; /* to and from who decides about a witnessed task */
static char said[PATH_MAX];         /* where its doubles write what they say */

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

/* A double is who it doubles: locks are not held to be inherited. */
static pid_t doubled;
pid_t getpid(void) { return doubled ? doubled : (pid_t)syscall(SYS_getpid); }

static void die(void) {
    syscall(SYS_kill, syscall(SYS_getpid), SIGKILL);
    for (;;) pause();
}

/* Have a state of its own, shared with nobody. */
static void part(void) {
    struct shared *own = malloc(sizeof *own);
    memcpy(own, shared, sizeof *own);
    shared = own;
}

void crash_witness(int to, int from, const char *file) {
    part();
    asks = to, answers = from;
    strncpy(said, file, sizeof said - 1);
    shared->mode = WITNESS;
}

/* Open what is open in the folder that was moved aside once more in the copy that has its place. */
static void reopen_files(const char *aside) {
    char own[64], path[PATH_MAX], copy[PATH_MAX * 2];
    size_t beginning = strlen(aside);
    for (int file = 3; file < 1024; file++) {
        snprintf(own, sizeof own, "/proc/self/fd/%d", file);
        ssize_t length = readlink(own, path, sizeof path - 1);
        if (length < 0) continue;
        path[length] = 0;
        if (strncmp(path, aside, beginning)) continue;
        snprintf(copy, sizeof copy, "%s%s", root, path + beginning);
        int flags = fcntl(file, F_GETFL) & ~(O_CREAT | O_EXCL | O_TRUNC);
        int opened = (int)syscall(SYS_openat, AT_FDCWD, copy, flags, 0);
        if (opened < 0) continue; /* a file without a name */
        if (!(flags & O_DIRECTORY)) lseek(opened, lseek(file, 0, SEEK_CUR), SEEK_SET);
        dup3(opened, file, fcntl(file, F_GETFD) & FD_CLOEXEC ? O_CLOEXEC : 0);
        syscall(SYS_close, opened);
    }
}

/* Wait for a double, which is ended where it hangs, and return its status. */
static int ended(pid_t pid) {
    int status;
    for (int waited = 0; waitpid(pid, &status, WNOHANG) == 0; waited++) {
        usleep(2000);
        if (waited < 500 * LONGEST_SECONDS) continue;
        kill(pid, SIGKILL);
        waitpid(pid, &status, 0);
        return SIGALRM;
    }
    return status;
}

struct answer {
    int mode, error; /* OFF: go on undisturbed */
    char aside[PATH_MAX];
};

/* Return in the witnessed task when it may go on, and in each double. */
static void be_witnessed(const char *name, long number) {
    struct answer answer;
    strncpy(shared->last, name, sizeof shared->last - 1);
    shared->point = number;
    for (;;) {
        if (syscall(SYS_write, asks, shared, sizeof *shared) != sizeof *shared) _exit(97);
        if (syscall(SYS_read, answers, &answer, sizeof answer) != sizeof answer) _exit(97);
        if (answer.mode == OFF) return;
        pid_t self = getpid(), pid = fork();
        if (pid == 0) {
            doubled = self;
            break;
        }
        int status = ended(pid);
        if (syscall(SYS_write, asks, &status, sizeof status) != sizeof status) _exit(97);
    }
    reopen_files(answer.aside);
    for (int stream = 1; stream <= 2; stream++) {
        int opened = (int)syscall(SYS_openat, AT_FDCWD, stream == 1 ? "/dev/null" : said, O_WRONLY | O_CREAT | O_TRUNC, 0644);
        dup2(opened, stream);
        syscall(SYS_close, opened);
    }
    part();
    shared->mode = answer.mode;
    shared->error = answer.error;
}

/* Count a call; true where it is to fail, with errno set. */
static int strikes(const char *name) {
    long number = __sync_fetch_and_add(&shared->calls, 1);
    if (shared->mode == WITNESS) be_witnessed(name, number);
    if (number == shared->point) strncpy(shared->last, name, sizeof shared->last - 1);
    if (shared->mode == KILL && number == shared->point) die();
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

/* Return how much of a write is done: half of the one that is struck, after which a torn one ends the process. */
static size_t part_of(size_t size) {
    int is_struck = shared->calls - 1 == shared->point && (shared->mode == TORN || shared->mode == SHORT);
    return is_struck && size > 1 ? size / 2 : size;
}

static ssize_t written(ssize_t size) {
    if (shared->mode == TORN && shared->calls - 1 == shared->point) die();
    return size;
}

#define WRITING(name, size, call)           \
    do {                                    \
        if (!is_watched(file)) return call; \
        if (strikes(name)) return -1;       \
        mark(file, 1);                      \
        size = part_of(size);               \
        return written(call);               \
    } while (0)

ssize_t write(int file, const void *content, size_t size) {
    WRITING("write", size, REAL(write)(file, content, size));
}

ssize_t writev(int file, const struct iovec *parts, int count) {
    struct iovec first = parts[0];
    if (!is_watched(file)) return REAL(writev)(file, parts, count);
    if (strikes("writev")) return -1;
    mark(file, 1);
    first.iov_len = part_of(first.iov_len);
    return written(first.iov_len < parts[0].iov_len ? REAL(writev)(file, &first, 1) : REAL(writev)(file, parts, count));
}

ssize_t pwrite64(int file, const void *content, size_t size, off64_t offset) {
    WRITING("pwrite64", size, REAL(pwrite64)(file, content, size, offset));
}

ssize_t sendfile64(int file, int source, off64_t *offset, size_t size) {
    static ssize_t (*real)(int, int, off64_t *, size_t);
    if (!real) real = (ssize_t(*)(int, int, off64_t *, size_t))dlsym(RTLD_NEXT, "sendfile64");
    WRITING("sendfile64", size, real(file, source, offset, size));
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
