/* A disk that syncs slowly, or fails to: preloaded into a server, in front of fsync and fdatasync.
 *
 *     cc -shared -fPIC -O2 -o slow_fsync.so slow_fsync.c -ldl
 *     SYNC_CONTROL=FILE LD_PRELOAD=./slow_fsync.so server ...
 *
 * FILE holds "<milliseconds> <errno>" and is read at each call: wait so long, sync, and then fail with errno unless it is 0.
 * Without the file both behave as always.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

static int disturbed(const char *name, int fd)
{
    int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, name);
    const char *path = getenv("SYNC_CONTROL");
    int ms = 0, error = 0;
    FILE *control = path ? fopen(path, "re") : NULL;
    if (control) {
        if (fscanf(control, "%d %d", &ms, &error) != 2)
            ms = error = 0;
        fclose(control);
    }
    struct timespec left = { ms / 1000, ms % 1000 * 1000000L };
    while (nanosleep(&left, &left) != 0 && errno == EINTR)
        ;
    int result = real(fd);
    if (error == 0)
        return result;
    errno = error;
    return -1;
}

int fsync(int fd) { return disturbed("fsync", fd); }
int fdatasync(int fd) { return disturbed("fdatasync", fd); }
