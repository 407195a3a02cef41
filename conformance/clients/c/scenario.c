/* The scenario of the real clients, spoken by the C library (libzookeeper_mt). One line per step; times and session ids
   never occur in the output, zxids are relative to the first write.  cc scenario.c -lzookeeper_mt -lpthread */
#define THREADED
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include <zookeeper/zookeeper.h>

static const char *address;
static int64_t base;
static char big[900000];

static const char *rel(int64_t zxid)
{
    static char text[8][32];
    static int n;
    char *t = text[n++ % 8];
    if (zxid == 0) return "0";
    snprintf(t, 32, "+%lld", (long long)(zxid - base));
    return t;
}

static const char *show(const struct Stat *s)
{
    static char text[512];
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    int64_t age = (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000 - s->ctime;
    snprintf(text, sizeof text, "czxid=%s mzxid=%s pzxid=%s version=%d cversion=%d aversion=%d ephemeral=%d length=%d children=%d recent=%d",
             rel(s->czxid), rel(s->mzxid), rel(s->pzxid), s->version, s->cversion, s->aversion, s->ephemeralOwner != 0, s->dataLength,
             s->numChildren, age < 60000 && s->ctime <= s->mtime);
    return text;
}

/* ---- events: remembered in the order of their arrival, printed when asked for */

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char seen[4096];

static void remember(const char *format, ...)
{
    va_list args;
    pthread_mutex_lock(&lock);
    size_t n = strlen(seen);
    va_start(args, format);
    vsnprintf(seen + n, sizeof seen - n, format, args);
    va_end(args);
    pthread_mutex_unlock(&lock);
}

static void events(const char *name, int expected)
{
    for (int i = 0; i < 300; i++) {
        int n = 0;
        pthread_mutex_lock(&lock);
        for (char *p = seen; *p; p++) n += *p == ';';
        pthread_mutex_unlock(&lock);
        if (expected && n >= expected) break;
        if (!expected && i == 25) break;
        usleep(10000);
    }
    pthread_mutex_lock(&lock);
    printf("events %s:%s\n", name, *seen ? seen : " none");
    *seen = 0;
    pthread_mutex_unlock(&lock);
}

static void watcher(zhandle_t *zh, int type, int state, const char *path, void *context)
{
    const char *kind = type == ZOO_CREATED_EVENT ? "created" : type == ZOO_DELETED_EVENT ? "deleted" : type == ZOO_CHANGED_EVENT ? "changed"
                     : type == ZOO_CHILD_EVENT ? "child" : type == ZOO_NOTWATCHING_EVENT ? "not watching" : NULL;
    if (kind) remember(" %s=%s %s;", (char *)context, kind, path);
}

static void session_watcher(zhandle_t *zh, int type, int state, const char *path, void *context)
{
    if (type == ZOO_SESSION_EVENT && state == ZOO_EXPIRED_SESSION_STATE) remember(" session expired;");
}

static zhandle_t *connect_to(const clientid_t *id)
{
    zhandle_t *zh = zookeeper_init(address, session_watcher, 8000, id, NULL, 0);
    for (int i = 0; i < 1000 && zoo_state(zh) != ZOO_CONNECTED_STATE; i++) usleep(10000);
    return zh;
}

/* ---- one line per call */

static void create(zhandle_t *zh, const char *path, const char *data, const struct ACL_vector *acl, int mode)
{
    char out[256] = "";
    struct Stat s;
    int rc = zoo_create2(zh, path, data, data ? (int)strlen(data) : -1, acl, mode, out, sizeof out, &s);
    printf("create2 %s mode %d: %d %s %s\n", path, mode, rc, out, rc ? "no stat" : show(&s));
}

static void create_ttl(zhandle_t *zh, const char *path, int mode, int64_t ttl)
{
    char out[256] = "";
    int rc = zoo_create_ttl(zh, path, "t", 1, &ZOO_OPEN_ACL_UNSAFE, mode, ttl, out, sizeof out);
    printf("create %s ttl %lld: %d %s\n", path, (long long)ttl, rc, out);
}

static void stat_of(zhandle_t *zh, const char *path)
{
    struct Stat s;
    int rc = zoo_exists(zh, path, 0, &s);
    printf("exists %s: %d %s\n", path, rc, rc ? "no stat" : show(&s));
}

static void get(zhandle_t *zh, const char *path)
{
    struct Stat s;
    int length = sizeof big;
    int rc = zoo_get(zh, path, 0, big, &length, &s);
    if (rc) printf("get %s: %d\n", path, rc);
    else printf("get %s: length %d, starts \"%.*s\" %s\n", path, length, length < 0 ? 0 : length > 30 ? 30 : length, big, show(&s));
}

static void set(zhandle_t *zh, const char *path, const char *data, int version)
{
    struct Stat s;
    int rc = zoo_set2(zh, path, data, (int)strlen(data), version, &s);
    printf("set %s version %d: %d %s\n", path, version, rc, rc ? "no stat" : show(&s));
}

static void delete(zhandle_t *zh, const char *path, int version)
{
    printf("delete %s version %d: %d\n", path, version, zoo_delete(zh, path, version));
}

static int by_name(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

static void children(zhandle_t *zh, const char *path)
{
    struct String_vector names;
    struct Stat s;
    int rc = zoo_get_children2(zh, path, 0, &names, &s);
    printf("children %s: %d", path, rc);
    if (rc == 0) {
        qsort(names.data, names.count, sizeof *names.data, by_name);
        for (int i = 0; i < names.count; i++) printf(" %s", names.data[i]);
        printf(" %s", show(&s));
        deallocate_String_vector(&names);
    }
    printf("\n");
}

static void get_acl(zhandle_t *zh, const char *path)
{
    struct ACL_vector acl;
    struct Stat s;
    int rc = zoo_get_acl(zh, path, &acl, &s);
    printf("getACL %s: %d", path, rc);
    if (rc == 0) {
        for (int i = 0; i < acl.count; i++) printf(" %d/%s:%s", acl.data[i].perms, acl.data[i].id.scheme, acl.data[i].id.id);
        printf(" %s", show(&s));
        deallocate_ACL_vector(&acl);
    }
    printf("\n");
}

static void multi(zhandle_t *zh, const char *name, int count, zoo_op_t *ops)
{
    zoo_op_result_t results[8];
    memset(results, 0, sizeof results);
    printf("multi %s: %d\n", name, zoo_multi(zh, count, ops, results));
    for (int i = 0; i < count; i++) printf("  %d: %d %s\n", i, results[i].err, results[i].value ? results[i].value : "");
}

static void answered(int rc, const void *data) { remember(" %s=%d;", (const char *)data, rc); }
static void stat_answered(int rc, const struct Stat *s, const void *data) { remember(" %s=%d version %d;", (const char *)data, rc, rc ? -1 : s->version); }
static void text_answered(int rc, const char *text, const void *data) { remember(" %s=%d %s;", (const char *)data, rc, rc ? "" : text); }
static void data_answered(int rc, const char *v, int n, const struct Stat *s, const void *data) { remember(" %s=%d %.*s;", (const char *)data, rc, rc ? 0 : n, v); }

/* What one process does; its session id stays behind, the session open. */
static clientid_t first_process(void)
{
    struct Id ann = {"digest", "ann:RYbu6l5aZwqon8VWmkcGvezdzfc="}, anyone = {"world", "anyone"}, odd = {"nonsense", "x"};
    struct ACL only_ann[] = {{ZOO_PERM_ALL, ann}}, readable[] = {{ZOO_PERM_READ, anyone}, {ZOO_PERM_ALL, ann}}, unknown[] = {{ZOO_PERM_ALL, odd}};
    struct ACL_vector ann_acl = {1, only_ann}, read_acl = {2, readable}, unknown_acl = {1, unknown}, no_acl = {0, NULL};
    struct Stat s;
    struct String_vector names;
    int length;

    zhandle_t *a = connect_to(NULL);

    printf("# nodes\n");
    zoo_create2(a, "/c", "root", 4, &ZOO_OPEN_ACL_UNSAFE, 0, big, sizeof big, &s);
    base = s.czxid;
    stat_of(a, "/c");
    create(a, "/c", "again", &ZOO_OPEN_ACL_UNSAFE, 0);
    create(a, "/c/a/b", "no parent", &ZOO_OPEN_ACL_UNSAFE, 0);
    create(a, "/c/null", NULL, &ZOO_OPEN_ACL_UNSAFE, 0);
    get(a, "/c/null");
    create(a, "/c/empty", "", &ZOO_OPEN_ACL_UNSAFE, 0);
    get(a, "/c/empty");
    create(a, "/c/ünï-日本", "δ", &ZOO_OPEN_ACL_UNSAFE, 0);
    get(a, "/c/ünï-日本");
    create(a, "/c/seq-", "", &ZOO_OPEN_ACL_UNSAFE, ZOO_PERSISTENT_SEQUENTIAL);
    create(a, "/c/seq-", "", &ZOO_OPEN_ACL_UNSAFE, ZOO_PERSISTENT_SEQUENTIAL);
    create(a, "/c/eph", "mine", &ZOO_OPEN_ACL_UNSAFE, ZOO_EPHEMERAL);
    create(a, "/c/eph/child", "", &ZOO_OPEN_ACL_UNSAFE, 0);
    create(a, "/c/es-", "mine", &ZOO_OPEN_ACL_UNSAFE, ZOO_EPHEMERAL_SEQUENTIAL);
    create(a, "/c/container", "c", &ZOO_OPEN_ACL_UNSAFE, ZOO_CONTAINER);
    create_ttl(a, "/c/ttl", ZOO_PERSISTENT_WITH_TTL, 3600000);
    create_ttl(a, "/c/ttl-", ZOO_PERSISTENT_SEQUENTIAL_WITH_TTL, 3600000);
    create_ttl(a, "/c/ttl-zero", ZOO_PERSISTENT_WITH_TTL, 0);
    stat_of(a, "/c/ttl");
    children(a, "/c");
    children(a, "/c/nothing");

    printf("# data and versions\n");
    set(a, "/c", "one", -1);
    set(a, "/c", "two", 1);
    set(a, "/c", "three", 1);
    set(a, "/c/nothing", "x", -1);
    get(a, "/c");
    memset(big, 'z', sizeof big);
    printf("set big: %d\n", zoo_set(a, "/c/empty", big, sizeof big, -1));
    get(a, "/c/empty");
    delete(a, "/c/empty", 7);
    delete(a, "/c/empty", 1);
    delete(a, "/c/empty", -1);
    delete(a, "/c", -1);

    printf("# asynchronous\n");
    zoo_acreate(a, "/c/async", "x", 1, &ZOO_OPEN_ACL_UNSAFE, 0, text_answered, "create");
    zoo_aset(a, "/c/async", "yy", 2, 0, stat_answered, "set");
    zoo_aget(a, "/c/async", 0, data_answered, "get");
    zoo_aexists(a, "/c/nothing", 0, stat_answered, "exists");
    zoo_adelete(a, "/c/async", 7, answered, "delete7");
    zoo_async(a, "/c", text_answered, "sync");
    zoo_adelete(a, "/c/async", 1, answered, "delete");
    events("in order", 7);

    printf("# watches\n");
    zhandle_t *b = connect_to(NULL);
    length = sizeof big;
    zoo_wget(a, "/c", watcher, "data", big, &length, &s);
    zoo_wexists(a, "/c/w", watcher, "exists", &s);
    zoo_wget_children(a, "/c", watcher, "children", &names);
    deallocate_String_vector(&names);
    set(b, "/c", "changed", -1);
    events("changed", 1);
    create(b, "/c/w", "", &ZOO_OPEN_ACL_UNSAFE, 0);
    events("created", 2);
    set(b, "/c", "again", -1);
    events("used up", 0);
    length = sizeof big;
    zoo_wget(a, "/c/w", watcher, "data", big, &length, &s);
    zoo_wget_children(a, "/c/w", watcher, "children", &names);
    deallocate_String_vector(&names);
    delete(b, "/c/w", -1);
    events("deleted", 2);
    length = sizeof big;
    zoo_wget(a, "/c", watcher, "data", big, &length, &s);
    printf("remove watches: %d\n", zoo_remove_watches(a, "/c", ZWATCHTYPE_DATA, watcher, "data", 0));
    printf("remove watches again: %d\n", zoo_remove_all_watches(a, "/c", ZWATCHTYPE_DATA, 0));
    set(b, "/c", "unseen", -1);
    events("after removal", 0);

    printf("# multi\n");
    zoo_op_t ops[8];
    char path[3][256];
    zoo_create_op_init(&ops[0], "/c/m", "1", 1, &ZOO_OPEN_ACL_UNSAFE, 0, path[0], 256);
    zoo_create_op_init(&ops[1], "/c/m/s-", NULL, -1, &ZOO_OPEN_ACL_UNSAFE, ZOO_PERSISTENT_SEQUENTIAL, path[1], 256);
    zoo_set_op_init(&ops[2], "/c/m", "22", 2, 0, &s);
    zoo_check_op_init(&ops[3], "/c/m", 1);
    zoo_delete_op_init(&ops[4], "/c/m/s-0000000000", -1);
    multi(a, "all", 5, ops);
    get(a, "/c/m");
    zoo_create_op_init(&ops[0], "/c/n", "1", 1, &ZOO_OPEN_ACL_UNSAFE, 0, path[0], 256);
    zoo_check_op_init(&ops[1], "/c/m", 9);
    zoo_delete_op_init(&ops[2], "/c/m", -1);
    multi(a, "none", 3, ops);
    stat_of(a, "/c/n");

    printf("# access control\n");
    create(a, "/c/acl", "secret", &ann_acl, 0);
    get(a, "/c/acl");
    get_acl(a, "/c/acl");
    zoo_add_auth(a, "digest", "ann:pw", 6, answered, "auth");
    events("authentication", 1);
    get(a, "/c/acl");
    get_acl(a, "/c/acl");
    printf("setACL: %d\n", zoo_set_acl(a, "/c/acl", 0, &read_acl));
    printf("setACL, old version: %d\n", zoo_set_acl(a, "/c/acl", 0, &ZOO_OPEN_ACL_UNSAFE));
    printf("setACL, unknown scheme: %d\n", zoo_set_acl(a, "/c/acl", -1, &unknown_acl));
    create(a, "/c/noacl", "", &no_acl, 0);
    create(a, "/c/creator", "", &ZOO_CREATOR_ALL_ACL, 0);
    get_acl(a, "/c/creator");
    create(b, "/c/creator2", "", &ZOO_CREATOR_ALL_ACL, 0);
    get(b, "/c/acl");
    set(b, "/c/acl", "x", -1);

    printf("timeout %d\n", zoo_recv_timeout(a));
    zookeeper_close(b);
    return *zoo_client_id(a);
}

/* What another one finds that knows the session and its password. */
static void second_process(const clientid_t *id)
{
    struct Stat s;
    printf("# sessions\n");
    zhandle_t *a = connect_to(id), *b = connect_to(NULL);
    printf("same session: %d\n", zoo_client_id(a)->client_id == id->client_id);
    stat_of(a, "/c/eph");
    zoo_wexists(b, "/c/eph", watcher, "ephemeral", &s);
    zookeeper_close(a);
    events("after close", 1);
    children(b, "/c");
    zookeeper_close(b);
    a = zookeeper_init(address, session_watcher, 8000, id, NULL, 0);
    events("session that is closed", 1);
    zookeeper_close(a);
}

int main(int argc, char **argv)
{
    clientid_t id;
    int ends[2];

    address = argv[1];
    setvbuf(stdout, NULL, _IOLBF, 0);
    zoo_set_debug_level(ZOO_LOG_LEVEL_ERROR);
    if (pipe(ends)) return 1;
    if (fork() == 0) {
        id = first_process();
        _exit(write(ends[1], &id, sizeof id) != sizeof id);
    }
    close(ends[1]);
    if (read(ends[0], &id, sizeof id) != sizeof id) {
        printf("the first process failed\n");
        return 1;
    }
    second_process(&id);
    return 0;
}
