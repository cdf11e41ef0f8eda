/* cli/image_serve.c - `doppel image serve`: an image for others, by NBD, until it is ended.
 *
 * The main thread accepts; each client has a thread. A signal shuts all connections down; what was written is flushed at the end.
 */
#include <arpa/inet.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <netinet/tcp.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "block/nbd_server.h"
#include "cli/image.h"
#include "tls/tls.h"

struct serve_options {
    struct image_common common;
    const char *file, *socket, *bind, *name, *snapshot, *tls, *psk;
    uint64_t port, shared;
    bool readonly, once;
};
static const struct cli_option serve_options[] = {
    IMAGE_OPTION_FORMAT,
    {"socket", 'k', "PATH", CLI_STRING, offsetof(struct serve_options, socket), .help = "a unix socket to listen on"},
    {"port", 'P', "N", CLI_UINT, offsetof(struct serve_options, port), .min = 1, .max = 65535, .help = "TCP port (10809)"},
    {"bind", 'b', "ADDRESS", CLI_STRING, offsetof(struct serve_options, bind),
     .help = "address to listen on (127.0.0.1; 0.0.0.0: everybody may read and write)"},
    {"export", 'x', "NAME", CLI_STRING, offsetof(struct serve_options, name), .help = "name of the export (none)"},
    {"tls-creds", 0, "DIR", CLI_STRING, offsetof(struct serve_options, tls),
     .help = "clients must use TLS and have a certificate that DIR/ca-cert.pem signed; we are DIR/server-cert.pem with server-key.pem"},
    {"tls-psk", 0, "FILE", CLI_STRING, offsetof(struct serve_options, psk), .help = "the same by keys that both have: lines of NAME:HEX, as psktool writes them"},
    {"read-only", 'r', NULL, CLI_FLAG, offsetof(struct serve_options, readonly), .help = "nobody may write"},
    {"snapshot", 'l', "NAME", CLI_STRING, offsetof(struct serve_options, snapshot), .help = "an internal snapshot, read-only"},
    {"shared", 'e', "N", CLI_UINT, offsetof(struct serve_options, shared), .min = 1, .max = 256,
     .help = "clients at a time (16); each may take 32 MiB of memory"},
    {"once", 0, NULL, CLI_FLAG, offsetof(struct serve_options, once), .help = "ends when the last client has gone"},
    IMAGE_OPTION_BACKING,
    IMAGE_OPTION_SECRET,
    IMAGE_OPTION_QUIET,
};
static const struct cli_operand serve_operands[] = {{"FILE", offsetof(struct serve_options, file)}};

struct server;
struct client {
    struct server *server;
    int fd;
    pthread_t thread;
    bool used, done;
};
struct server {
    struct dp_nbd_server *nbd;
    pthread_mutex_t lock; /* the clients */
    struct client *client;
    unsigned clients, served;
    int wake[2];
};

static void *serve_client(void *opaque)
{
    struct client *c = opaque;
    struct server *s = c->server;
    int fd = dup(c->fd); /* ours stays, to be shut down, until the thread is joined */
    if (fd >= 0)
        dp_nbd_serve(s->nbd, fd);
    pthread_mutex_lock(&s->lock);
    c->done = true;
    pthread_mutex_unlock(&s->lock);
    ssize_t n = write(s->wake[1], "", 1);
    (void)n;
    return NULL;
}

/* Joins those that are done, or all; how many are left. */
static unsigned reap(struct server *s, bool all)
{
    unsigned left = 0;
    for (unsigned i = 0; i < s->clients; i++) {
        struct client *c = &s->client[i];
        pthread_mutex_lock(&s->lock);
        bool join = c->used && (all || c->done);
        pthread_mutex_unlock(&s->lock);
        if (join) {
            if (all)
                shutdown(c->fd, SHUT_RDWR);
            pthread_join(c->thread, NULL);
            close(c->fd);
            c->used = false;
        }
        left += c->used;
    }
    return left;
}

static void take_client(struct server *s, int listener)
{
    int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC), on = 1;
    unsigned i = 0;
    if (fd < 0) {
        if (errno == EMFILE || errno == ENFILE) /* it stays, and would keep us busy */
            poll(NULL, 0, 100);
        return;
    }
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on); /* of a unix socket it fails, and is not needed */
    while (i < s->clients && s->client[i].used)
        i++;
    if (i == s->clients) {
        close(fd);
        return;
    }
    s->client[i] = (struct client){.server = s, .fd = fd, .used = true};
    if (pthread_create(&s->client[i].thread, NULL, serve_client, &s->client[i])) {
        close(fd);
        s->client[i].used = false;
        return;
    }
    s->served++;
}

static int listen_unix(const char *path, struct dp_error *e)
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    struct stat st;
    if (strlen(path) >= sizeof a.sun_path)
        return dp_error_set(e, -ENAMETOOLONG, "%s is too long for a socket's name", path);
    strcpy(a.sun_path, path);
    if (!lstat(path, &st) && S_ISSOCK(st.st_mode)) { /* of one that died, unless somebody answers */
        int probe = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        bool alive = probe >= 0 && !connect(probe, (struct sockaddr *)&a, sizeof a);
        if (probe >= 0)
            close(probe);
        if (alive)
            return dp_error_set(e, -EADDRINUSE, "%s: somebody serves there already", path);
        unlink(path);
    }
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd >= 0 && !bind(fd, (struct sockaddr *)&a, sizeof a) && !chmod(path, 0600) && !listen(fd, 16))
        return fd;
    int rc = dp_error_set(e, -errno, "cannot listen on %s: %s", path, strerror(errno));
    if (fd >= 0)
        close(fd);
    return rc;
}

static int listen_tcp(const struct serve_options *o, struct dp_error *e)
{
    const char *address = o->bind ? o->bind : "127.0.0.1";
    uint16_t port = htons((uint16_t)(o->port ? o->port : DP_NBD_PORT));
    struct sockaddr_in v4 = {.sin_family = AF_INET, .sin_port = port};
    struct sockaddr_in6 v6 = {.sin6_family = AF_INET6, .sin6_port = port};
    bool four = inet_pton(AF_INET, address, &v4.sin_addr) == 1;
    int on = 1;
    if (!four && inet_pton(AF_INET6, address, &v6.sin6_addr) != 1)
        return dp_error_set(e, -EINVAL, "--bind %s: give an IP address", address);
    int fd = socket(four ? AF_INET : AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd >= 0)
        setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (fd >= 0 && !bind(fd, four ? (struct sockaddr *)&v4 : (struct sockaddr *)&v6, four ? sizeof v4 : sizeof v6) && !listen(fd, 16))
        return fd;
    int rc = dp_error_set(e, -errno, "cannot listen on %s, port %u: %s", address, ntohs(port), strerror(errno));
    if (fd >= 0)
        close(fd);
    return rc;
}

static int signals(sigset_t *set)
{
    sigemptyset(set);
    sigaddset(set, SIGINT);
    sigaddset(set, SIGTERM);
    sigaddset(set, SIGHUP);
    pthread_sigmask(SIG_BLOCK, set, NULL);
    return signalfd(-1, set, SFD_CLOEXEC);
}

static int run_server(struct server *s, const struct serve_options *o, int listener, struct dp_error *e)
{
    sigset_t set;
    struct pollfd p[3] = {{.fd = listener, .events = POLLIN}, {.fd = signals(&set), .events = POLLIN}, {.events = POLLIN}};
    s->clients = o->shared ? (unsigned)o->shared : 16;
    if (p[1].fd < 0 || pipe2(s->wake, O_CLOEXEC | O_NONBLOCK) || !(s->client = calloc(s->clients, sizeof *s->client)))
        return dp_error_set(e, -ENOMEM, "no memory, or no descriptors, for a server");
    p[2].fd = s->wake[0];
    pthread_mutex_init(&s->lock, NULL);
    for (;;) {
        char drain[64];
        if (poll(p, 3, -1) < 0 && errno != EINTR)
            break;
        if (p[1].revents)
            break;
        if (p[2].revents)
            while (read(s->wake[0], drain, sizeof drain) > 0)
                ;
        if (!reap(s, false) && o->once && s->served)
            break;
        if (p[0].revents)
            take_client(s, listener);
    }
    reap(s, true);
    pthread_mutex_destroy(&s->lock);
    free(s->client);
    close(p[1].fd);
    close(s->wake[0]);
    close(s->wake[1]);
    return 0;
}

static int serve(int argc, char **argv)
{
    struct serve_options o = {0};
    struct dp_error e = {0};
    struct dp_image *i = NULL;
    struct server s = {0};
    struct dp_tls *tls = NULL;
    int status = cli_begin(&image_serve_verb, argc, argv, &o), listener = -1, rc;
    if (status >= 0)
        return status;
    if (o.socket && (o.port || o.bind)) {
        fprintf(stderr, "doppel: --socket, or --port and --bind, not both\n");
        return EXIT_STATUS_USAGE;
    }
    if (o.tls && o.psk) {
        fprintf(stderr, "doppel: --tls-creds or --tls-psk, not both\n");
        return EXIT_STATUS_USAGE;
    }
    bool write = !o.readonly && !o.snapshot;
    rc = o.tls || o.psk ? dp_tls_create(&(struct dp_tls_options){.folder = o.tls, .psk = o.psk, .server = true, .allow_12 = true}, &tls, &e) : 0;
    if (!rc && !(rc = image_open(&o.common, o.file, write, (struct dp_image_options){.snapshot = o.snapshot}, &i, &e)))
        rc = dp_nbd_server_create(&(struct dp_nbd_options){.image = i, .name = o.name, .description = o.file, .tls = tls}, &s.nbd, &e);
    if (!rc && (listener = o.socket ? listen_unix(o.socket, &e) : listen_tcp(&o, &e)) < 0)
        rc = listener;
    if (!rc) {
        const char *name = o.name ? o.name : "", *scheme = tls ? "nbds" : "nbd";
        if (o.socket)
            image_say(&o.common, "%s+unix:///%s?socket=%s\n", scheme, name, o.socket);
        else
            image_say(&o.common, "%s://%s:%u/%s\n", scheme, o.bind ? o.bind : "127.0.0.1", (unsigned)(o.port ? o.port : DP_NBD_PORT), name);
        fflush(stdout);
        rc = run_server(&s, &o, listener, &e);
    }
    if (listener >= 0) {
        close(listener);
        if (o.socket)
            unlink(o.socket);
    }
    dp_nbd_server_destroy(s.nbd);
    dp_tls_destroy(tls);
    if (!rc && (rc = dp_image_flush(i)))
        dp_error_set(&e, rc, "disk %s: not everything could be written: %s", o.file, strerror(-rc));
    dp_image_close(i);
    return rc ? image_fail(&e) : 0;
}

const struct cli_verb image_serve_verb = {
    .name = "image serve",
    .summary = "gives an image to others, by NBD",
    .usage = "[OPTION]... FILE",
    .examples = "  doppel image serve -f qcow2 --socket /run/disk.sock disk.qcow2\n"
                "  doppel image serve -f raw -r --bind 192.0.2.1 disk.img\n"
                "  doppel image serve -f raw --bind 192.0.2.1 --tls-creds /etc/doppel/tls disk.img\n",
    .options = serve_options,
    .option_count = DP_ARRAY_LEN(serve_options),
    .operands = serve_operands,
    .operand_count = DP_ARRAY_LEN(serve_operands),
    .run = serve,
};
