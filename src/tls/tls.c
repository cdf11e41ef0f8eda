/* tls.c - see tls.h.
 *
 * The descriptor is reached by a BIO of our own: OpenSSL's would raise SIGPIPE, and take an ICMP message for the end of a datagram session.
 */
#include "tls/tls.h"

#include <arpa/inet.h>
#include <openssl/bio.h>
#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/rand.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
    KEYS_MAX = 64,
    KEY_MIN = 16,
    KEY_MAX = 64,
    NAME_MAX_LENGTH = 128,
    COOKIE = 16,
    LINK_MTU = 1400, /* of handshakes by datagrams: fits everywhere */
    REKEY = 1 << 23, /* records, after which a stream has new keys: AES-GCM is good for 2^24.5 (RFC 8446 5.5) */
};
#define CIPHERS "ECDHE+AESGCM:ECDHE+CHACHA20"
#define PSK_CIPHERS "ECDHE-PSK-CHACHA20-POLY1305"

struct key {
    char name[NAME_MAX_LENGTH + 1];
    uint8_t bytes[KEY_MAX];
    unsigned size;
};

struct dp_tls {
    SSL_CTX *ctx;
    BIO_METHOD *method;
    char *peer;
    struct key *key;
    unsigned keys;
    bool server, datagram;
};

struct dp_tls_session {
    const struct dp_tls *tls;
    SSL *ssl;
    int fd;
    bool listened, broken;
    uint32_t records;
    uint8_t cookie[COOKIE];
};

/* ---- errors ---- */

static int fail(struct dp_error *e, int code, const char *what)
{
    unsigned long why = ERR_peek_last_error();
    const char *reason = why ? ERR_reason_error_string(why) : NULL;
    ERR_clear_error();
    return dp_error_set(e, code, "%s%s%s", what, reason ? ": " : "", reason ? reason : "");
}

static int fail_file(struct dp_error *e, const char *folder, const char *name)
{
    unsigned long why = ERR_peek_error(); /* the first says it best: no such file */
    const char *reason = ERR_SYSTEM_ERROR(why) ? strerror(ERR_GET_REASON(why)) : why ? ERR_reason_error_string(why) : NULL;
    int code = ERR_SYSTEM_ERROR(why) ? -ERR_GET_REASON(why) : -EINVAL;
    ERR_clear_error();
    return dp_error_set(e, code, "credentials %s/%s: %s", folder, name, reason ? reason : "cannot be used");
}

/* ---- keys ---- */

static int digit(char c)
{
    return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

static bool take_key(struct key *k, char *line)
{
    line[strcspn(line, "\r\n")] = 0;
    char *hex = strrchr(line, ':');
    size_t name = hex ? (size_t)(hex - line) : 0, digits = hex ? strlen(hex + 1) : 0;
    if (!name || name > NAME_MAX_LENGTH || digits % 2 || digits / 2 < KEY_MIN || digits / 2 > KEY_MAX)
        return false;
    memcpy(k->name, line, name);
    k->name[name] = 0;
    k->size = (unsigned)digits / 2;
    for (unsigned i = 0; i < k->size; i++) {
        int high = digit(hex[1 + 2 * i]), low = digit(hex[2 + 2 * i]);
        if (high < 0 || low < 0)
            return false;
        k->bytes[i] = (uint8_t)(high << 4 | low);
    }
    return true;
}

static int read_keys(struct dp_tls *t, const char *path, struct dp_error *e)
{
    char line[NAME_MAX_LENGTH + 2 * KEY_MAX + 8];
    FILE *f = fopen(path, "re");
    int rc = 0;
    if (!f)
        return dp_error_set(e, -errno, "keys %s: %s", path, strerror(errno));
    if (!(t->key = calloc(KEYS_MAX, sizeof *t->key)))
        rc = dp_error_set(e, -ENOMEM, "no memory");
    for (unsigned n = 1; !rc && fgets(line, sizeof line, f); n++) {
        if (*line == '#' || *line == '\n')
            continue;
        if (t->keys == KEYS_MAX)
            rc = dp_error_set(e, -E2BIG, "keys %s: at most %d", path, KEYS_MAX);
        else if (!take_key(&t->key[t->keys], line))
            rc = dp_error_set(e, -EINVAL, "keys %s, line %u: give NAME:KEY, the key %d to %d bytes as hexadecimal digits", path, n, KEY_MIN,
                              KEY_MAX);
        else
            t->keys++;
    }
    OPENSSL_cleanse(line, sizeof line);
    fclose(f);
    return rc || t->keys ? rc : dp_error_set(e, -EINVAL, "keys %s: there is none: make one by psktool, or write NAME:HEX", path);
}

static const struct dp_tls *tls_of(SSL *ssl) { return SSL_CTX_get_app_data(SSL_get_SSL_CTX(ssl)); }

static unsigned client_key(SSL *ssl, const char *hint, char *name, unsigned room, unsigned char *key, unsigned key_room)
{
    const struct key *k = tls_of(ssl)->key;
    if (strlen(k->name) >= room || k->size > key_room)
        return 0;
    strcpy(name, k->name);
    memcpy(key, k->bytes, k->size);
    return k->size;
}

static unsigned server_key(SSL *ssl, const char *name, unsigned char *key, unsigned room)
{
    const struct dp_tls *t = tls_of(ssl);
    for (unsigned i = 0; name && i < t->keys; i++)
        if (!strcmp(t->key[i].name, name) && t->key[i].size <= room) {
            memcpy(key, t->key[i].bytes, t->key[i].size);
            return t->key[i].size;
        }
    return 0;
}

/* ---- cookies ---- */

static int make_cookie(SSL *ssl, unsigned char *cookie, unsigned *size)
{
    const struct dp_tls_session *s = SSL_get_app_data(ssl);
    memcpy(cookie, s->cookie, *size = COOKIE);
    return 1;
}

static int check_cookie(SSL *ssl, const unsigned char *cookie, unsigned size)
{
    const struct dp_tls_session *s = SSL_get_app_data(ssl);
    return size == COOKIE && !CRYPTO_memcmp(cookie, s->cookie, COOKIE);
}

/* ---- the descriptor ---- */

static int bio_read(BIO *b, char *data, int size)
{
    struct dp_tls_session *s = BIO_get_data(b);
    ssize_t n;
    BIO_clear_retry_flags(b);
    do
        n = recv(s->fd, data, (size_t)size, 0);
    while (n < 0 && errno == EINTR);
    if (n < 0 && (errno == EAGAIN || s->tls->datagram)) /* datagrams: nobody is there now, said by ICMP perhaps of somebody else */
        BIO_set_retry_read(b);
    return (int)n;
}

static int bio_write(BIO *b, const char *data, int size)
{
    struct dp_tls_session *s = BIO_get_data(b);
    ssize_t n;
    BIO_clear_retry_flags(b);
    do
        n = send(s->fd, data, (size_t)size, MSG_NOSIGNAL);
    while (n < 0 && errno == EINTR);
    if (n < 0 && errno == EAGAIN)
        BIO_set_retry_write(b);
    else if (n < 0 && s->tls->datagram) /* such things get lost on networks */
        n = size;
    return (int)n;
}

static long bio_control(BIO *b, int what, long number, void *pointer)
{
    return what == BIO_CTRL_FLUSH || what == BIO_CTRL_DUP; /* anything else is not known here, and need not be */
}

static int bio_create(BIO *b)
{
    BIO_set_init(b, 1);
    return 1;
}

/* ---- credentials ---- */

static int load(struct dp_tls *t, const char *folder, struct dp_error *e)
{
    char path[4096];
    const char *role = t->server ? "server" : "client";
    struct {
        const char *name;
        int kind;
    } file[] = {{"ca-cert.pem", 0},
                {t->server ? "server-cert.pem" : "client-cert.pem", 1},
                {t->server ? "server-key.pem" : "client-key.pem", 2},
                {"ca-crl.pem", 3}};
    for (unsigned i = 0; i < DP_ARRAY_LEN(file); i++) {
        if (snprintf(path, sizeof path, "%s/%s", folder, file[i].name) >= (int)sizeof path)
            return dp_error_set(e, -ENAMETOOLONG, "credentials %.100s...: the name is too long", folder);
        if (file[i].kind == 3 && access(path, F_OK))
            break;
        int good = file[i].kind == 1   ? SSL_CTX_use_certificate_chain_file(t->ctx, path)
                   : file[i].kind == 2 ? SSL_CTX_use_PrivateKey_file(t->ctx, path, SSL_FILETYPE_PEM)
                                       : SSL_CTX_load_verify_file(t->ctx, path);
        if (good != 1)
            return fail_file(e, folder, file[i].name);
        if (file[i].kind == 3)
            X509_STORE_set_flags(SSL_CTX_get_cert_store(t->ctx), X509_V_FLAG_CRL_CHECK);
    }
    if (SSL_CTX_check_private_key(t->ctx) != 1) {
        ERR_clear_error();
        return dp_error_set(e, -EINVAL, "credentials %s: %s-key.pem is not the key of %s-cert.pem", folder, role, role);
    }
    return 0;
}

static int set_up(struct dp_tls *t, const struct dp_tls_options *o, struct dp_error *e)
{
    const SSL_METHOD *method = o->datagram ? DTLS_method() : TLS_method();
    if (!(t->ctx = SSL_CTX_new(method)) ||
        !(t->method = BIO_meth_new(BIO_TYPE_SOURCE_SINK | BIO_TYPE_DESCRIPTOR, "doppel")))
        return fail(e, -ENOMEM, "TLS");
    SSL_CTX_set_app_data(t->ctx, t);
    BIO_meth_set_read(t->method, bio_read);
    BIO_meth_set_write(t->method, bio_write);
    BIO_meth_set_ctrl(t->method, bio_control);
    BIO_meth_set_create(t->method, bio_create);
    int least = o->datagram ? DTLS1_2_VERSION : o->allow_12 ? TLS1_2_VERSION : TLS1_3_VERSION;
    if (SSL_CTX_set_min_proto_version(t->ctx, least) != 1 || SSL_CTX_set_cipher_list(t->ctx, o->psk ? PSK_CIPHERS : CIPHERS) != 1)
        return fail(e, -EINVAL, "TLS");
    SSL_CTX_set_options(t->ctx, SSL_OP_NO_COMPRESSION | SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_TICKET | SSL_OP_NO_QUERY_MTU |
                                    (o->datagram && o->server ? SSL_OP_COOKIE_EXCHANGE : 0));
    SSL_CTX_set_num_tickets(t->ctx, 0);
    SSL_CTX_set_session_cache_mode(t->ctx, SSL_SESS_CACHE_OFF);
    SSL_CTX_set_mode(t->ctx, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
    SSL_CTX_set_read_ahead(t->ctx, 1);
    SSL_CTX_set_cookie_generate_cb(t->ctx, make_cookie);
    SSL_CTX_set_cookie_verify_cb(t->ctx, check_cookie);
    if (o->psk) {
        if (o->server)
            SSL_CTX_set_psk_server_callback(t->ctx, server_key);
        else
            SSL_CTX_set_psk_client_callback(t->ctx, client_key);
        return read_keys(t, o->psk, e);
    }
    SSL_CTX_set_verify(t->ctx, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, NULL);
    return load(t, o->folder, e);
}

int dp_tls_create(const struct dp_tls_options *o, struct dp_tls **out, struct dp_error *e)
{
    struct dp_tls *t = calloc(1, sizeof *t);
    if (!o->folder == !o->psk) {
        free(t);
        return dp_error_set(e, -EINVAL, "TLS: give a folder of certificates, or a file of keys");
    }
    if (!t || (o->peer && !(t->peer = strdup(o->peer)))) {
        free(t);
        return dp_error_set(e, -ENOMEM, "no memory");
    }
    t->server = o->server;
    t->datagram = o->datagram;
    ERR_clear_error();
    int rc = set_up(t, o, e);
    if (rc)
        dp_tls_destroy(t);
    else
        *out = t;
    return rc;
}

void dp_tls_destroy(struct dp_tls *t)
{
    if (!t)
        return;
    SSL_CTX_free(t->ctx);
    BIO_meth_free(t->method);
    if (t->key)
        OPENSSL_cleanse(t->key, KEYS_MAX * sizeof *t->key);
    free(t->key);
    free(t->peer);
    free(t);
}

/* ---- sessions ---- */

/* Whom the certificate must be for. */
static bool expect(SSL *ssl, const char *peer)
{
    uint8_t binary[16];
    if (inet_pton(AF_INET, peer, binary) == 1 || inet_pton(AF_INET6, peer, binary) == 1)
        return X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(ssl), peer) == 1;
    SSL_set_hostflags(ssl, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS);
    return SSL_set1_host(ssl, peer) == 1 && (tls_of(ssl)->server || SSL_set_tlsext_host_name(ssl, peer) == 1);
}

int dp_tls_session_create(const struct dp_tls *t, int fd, struct dp_tls_session **out, struct dp_error *e)
{
    struct dp_tls_session *s = calloc(1, sizeof *s);
    BIO *b = NULL;
    ERR_clear_error();
    if (!s || !(s->ssl = SSL_new(t->ctx)) || !(b = BIO_new(t->method)) || RAND_bytes(s->cookie, COOKIE) != 1) {
        BIO_free(b);
        dp_tls_session_destroy(s);
        return fail(e, -ENOMEM, "TLS: no memory");
    }
    s->tls = t;
    s->fd = fd;
    BIO_set_data(b, s);
    SSL_set_bio(s->ssl, b, b);
    SSL_set_app_data(s->ssl, s);
    if (t->peer && !t->keys && !expect(s->ssl, t->peer)) {
        dp_tls_session_destroy(s);
        return fail(e, -EINVAL, "TLS: the peer's name");
    }
    if (t->datagram)
        DTLS_set_link_mtu(s->ssl, LINK_MTU);
    if (t->server)
        SSL_set_accept_state(s->ssl);
    else
        SSL_set_connect_state(s->ssl);
    s->listened = !t->server || !t->datagram;
    *out = s;
    return 0;
}

void dp_tls_session_destroy(struct dp_tls_session *s)
{
    if (!s)
        return;
    SSL_free(s->ssl);
    free(s);
}

bool dp_tls_begun(const struct dp_tls_session *s) { return s->listened; }

/* What a call that did not go well means. */
static int trouble(struct dp_tls_session *s, int rc, const char *what, struct dp_error *e)
{
    int why = SSL_get_error(s->ssl, rc), code = errno;
    if (why == SSL_ERROR_WANT_READ || why == SSL_ERROR_WANT_WRITE)
        return -EAGAIN;
    s->broken = true;
    if (why == SSL_ERROR_ZERO_RETURN)
        return 0;
    long verify = SSL_get_verify_result(s->ssl);
    if (verify != X509_V_OK) {
        ERR_clear_error();
        return dp_error_set(e, -EACCES, "%s: the other end's certificate: %s", what, X509_verify_cert_error_string(verify));
    }
    if (why == SSL_ERROR_SYSCALL && !ERR_peek_error())
        return dp_error_set(e, code ? -code : -EPIPE, "%s: %s", what, code ? strerror(code) : "the other end hung up");
    return fail(e, -EPROTO, what);
}

int dp_tls_handshake(struct dp_tls_session *s, struct dp_error *e)
{
    ERR_clear_error();
    errno = 0;
    if (!s->listened) {
        BIO_ADDR *from = BIO_ADDR_new();
        s->listened = from && DTLSv1_listen(s->ssl, from) > 0;
        BIO_ADDR_free(from);
        if (!s->listened)
            return -EAGAIN; /* whatever it was, it left nothing */
    }
    if (s->tls->datagram && DTLSv1_handle_timeout(s->ssl) < 0) {
        s->broken = true;
        return fail(e, -ETIMEDOUT, "TLS: no answer");
    }
    int rc = SSL_do_handshake(s->ssl);
    if (rc == 1)
        return 0;
    rc = trouble(s, rc, "TLS handshake", e);
    return rc ? rc : dp_error_set(e, -EPIPE, "TLS handshake: the other end hung up");
}

ssize_t dp_tls_read(struct dp_tls_session *s, void *data, size_t n, struct dp_error *e)
{
    size_t got;
    ERR_clear_error();
    errno = 0;
    int rc = SSL_read_ex(s->ssl, data, n, &got);
    return rc == 1 ? (ssize_t)got : trouble(s, rc, "TLS", e);
}

ssize_t dp_tls_write(struct dp_tls_session *s, const void *data, size_t n, struct dp_error *e)
{
    size_t sent;
    ERR_clear_error();
    errno = 0;
    if (++s->records == REKEY && !s->tls->datagram && SSL_version(s->ssl) == TLS1_3_VERSION) {
        SSL_key_update(s->ssl, SSL_KEY_UPDATE_NOT_REQUESTED);
        s->records = 0;
    }
    int rc = SSL_write_ex(s->ssl, data, n, &sent);
    if (rc == 1)
        return (ssize_t)sent;
    rc = trouble(s, rc, "TLS", e);
    return rc ? rc : dp_error_set(e, -EPIPE, "TLS: the other end hung up");
}

bool dp_tls_pending(const struct dp_tls_session *s) { return SSL_has_pending(s->ssl); }
short dp_tls_wants(const struct dp_tls_session *s) { return SSL_want_write(s->ssl) ? POLLOUT : POLLIN; }

bool dp_tls_timeout(const struct dp_tls_session *s, uint64_t *ns)
{
    struct timeval left;
    if (!s->tls->datagram || !s->listened || !DTLSv1_get_timeout(s->ssl, &left))
        return false;
    *ns = (uint64_t)left.tv_sec * 1000000000 + (uint64_t)left.tv_usec * 1000;
    return true;
}

void dp_tls_close(struct dp_tls_session *s)
{
    ERR_clear_error();
    if (!s->broken && SSL_is_init_finished(s->ssl)) {
        int rc = SSL_shutdown(s->ssl);
        (void)rc; /* who does not hear it notices that we are gone */
    }
    ERR_clear_error();
}
