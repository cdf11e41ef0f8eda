/* http_fetch.c - ranges of a file on a web server, by libcurl.
 *
 * Model: a get is one or more transfers, each of what is still missing. An answer is judged when its first byte of body comes: what is not
 * the wanted range of the same file is refused before it costs anything. What can go better next time (a connection that breaks, a server
 * that is overloaded) is tried again, with growing pauses, until nothing came for PATIENCE seconds. The address that redirections led to
 * is remembered, so that all ranges come from one place; when that refuses, the first address is asked again.
 * Invariants: nothing is tried again before the first answer came (the address may be wrong). What may be spoken is HTTP and HTTPS, and
 * from HTTPS nothing leads back to HTTP. Addresses with a password are refused, because addresses are shown: ~/.netrc is for them.
 * Source: http.h; libcurl's manual.
 */
#include <curl/curl.h>
#include <stdlib.h>
#include <strings.h>
#include <time.h>

#include "block/http.h"

enum { PATIENCE = 30, CONNECT_SECONDS = 10, STALL_SECONDS = 10, REDIRECTS = 10, PAUSE_MS = 100, PAUSE_MAX_MS = 2000 };

struct dp_http {
    CURL *curl;
    struct curl_slist *headers;
    char *url, *now; /* as it was given; where that led to (NULL: not known) */
    struct dp_http_identity id;
    bool known; /* id is */
    bool stale;
    atomic_bool stop;
    char message[CURL_ERROR_SIZE];
    /* the transfer under way */
    struct dp_http_reply reply;
    uint64_t offset, size, done;
    uint8_t *data;
    bool judged;
    int verdict; /* why it was refused; 0: it was not */
    bool again;  /* and whether that may change */
    struct dp_error why;
};

/* ---- what servers say ---- */

static bool number(const char **p, const char *end, uint64_t *value)
{
    const char *from = *p;
    *value = 0;
    for (; *p < end && **p >= '0' && **p <= '9'; ++*p) {
        if (*value > (INT64_MAX - 9) / 10)
            return false;
        *value = *value * 10 + (uint64_t)(**p - '0');
    }
    return *p > from;
}

static bool character(const char **p, const char *end, char c) { return *p < end && *(*p)++ == c; }

/* bytes 0-499/1234 */
static void read_range(struct dp_http_reply *r, const char *p, const char *end)
{
    r->ranged = end - p > 6 && !strncasecmp(p, "bytes ", 6) && (p += 6) && number(&p, end, &r->first) && character(&p, end, '-') &&
                number(&p, end, &r->last) && character(&p, end, '/') && number(&p, end, &r->total) && p == end && r->first <= r->last &&
                r->last < r->total;
}

static void keep(struct dp_http_reply *r, char *to, size_t room, const char *p, const char *end)
{
    if ((size_t)(end - p) >= room || memchr(p, 0, (size_t)(end - p))) {
        r->odd = true;
        return;
    }
    memset(to, 0, room);
    memcpy(to, p, (size_t)(end - p));
}

static bool is_header(const char **p, const char *end, const char *name)
{
    size_t n = strlen(name);
    if ((size_t)(end - *p) <= n || strncasecmp(*p, name, n) || (*p)[n] != ':')
        return false;
    *p += n + 1;
    while (*p < end && (**p == ' ' || **p == '\t'))
        ++*p;
    return true;
}

void dp_http_reply_line(struct dp_http_reply *r, const char *line, size_t size)
{
    const char *p = line, *end = line + size;
    while (end > p && (end[-1] == '\r' || end[-1] == '\n' || end[-1] == ' ' || end[-1] == '\t'))
        end--;
    if (end - p > 5 && !memcmp(p, "HTTP/", 5)) {
        uint64_t status = 0;
        *r = (struct dp_http_reply){0};
        p = memchr(p, ' ', (size_t)(end - p));
        if (p && p++ && number(&p, end, &status) && status < 1000)
            r->status = (unsigned)status;
    } else if (is_header(&p, end, "Content-Range")) {
        read_range(r, p, end);
        r->id.size = r->ranged ? r->total : 0;
    } else if (is_header(&p, end, "ETag")) {
        keep(r, r->id.etag, sizeof r->id.etag, p, end);
    } else if (is_header(&p, end, "Last-Modified")) {
        keep(r, r->id.modified, sizeof r->id.modified, p, end);
    } else if (is_header(&p, end, "Content-Encoding")) {
        r->encoded = end - p != 8 || strncasecmp(p, "identity", 8) != 0;
    }
}

static int refuse(struct dp_http *h, int code, bool again, const char *text)
{
    h->again = again;
    return h->verdict = dp_error_set(&h->why, code, "disk %s: %s", h->url, text);
}

static int refuse_status(struct dp_http *h, unsigned status)
{
    int code = status == 404 || status == 410 ? -ENOENT : status == 401 || status == 403 || status == 407 ? -EACCES : -EIO;
    h->again = status >= 500 || status == 429 || status == 408;
    const char *what = status == 404 || status == 410 ? ": there is no such file"
                       : status == 401                ? ": it wants a name and a password; put them into ~/.netrc"
                       : status == 403                ? ": it does not allow this"
                                                      : "";
    return h->verdict = dp_error_set(&h->why, code, "disk %s: the server answers with status %u%s", h->url, status, what);
}

static int refuse_changed(struct dp_http *h)
{
    h->stale = true;
    return refuse(h, -ESTALE, false, "the file on the server has changed: start anew, with a new copy");
}

/* Is this the answer to what was asked? */
static int judge(struct dp_http *h)
{
    const struct dp_http_reply *r = &h->reply;
    uint64_t at = h->offset + h->done;
    h->judged = true;
    if (r->status == 200 && !h->known)
        return refuse(h, -ENOTSUP, false, "the server gives no parts of files (ranges): download it, and use the file");
    if (r->status == 416 && !h->known)
        return refuse(h, -EINVAL, false, "the file is empty, or the server gives no parts of files");
    if (r->status == 416 || (r->status == 200 && r->id.etag[0] && strcmp(r->id.etag, h->id.etag)))
        return refuse_changed(h);
    if (r->status == 200)
        return refuse(h, -EIO, true, "the server gave all of the file instead of a part");
    if (r->status != 206)
        return refuse_status(h, r->status);
    if (r->encoded)
        return refuse(h, -ENOTSUP, false, "the server compresses the file: parts of that are of no use; download it, and use the file");
    if (r->odd || !r->ranged)
        return refuse(h, -EPROTO, false, "the server does not say which part of the file it gives; download it, and use the file");
    if (h->known && (r->total != h->id.size || strcmp(r->id.etag, h->id.etag) || strcmp(r->id.modified, h->id.modified)))
        return refuse_changed(h);
    if (r->first != at || r->last > h->offset + h->size - 1)
        return refuse(h, -EPROTO, true, "the server gave another part of the file than was asked for");
    return 0;
}

static size_t take_header(char *line, size_t one, size_t size, void *opaque)
{
    dp_http_reply_line(&((struct dp_http *)opaque)->reply, line, size);
    return size;
}

static size_t take_body(char *data, size_t one, size_t size, void *opaque)
{
    struct dp_http *h = opaque;
    if (!h->judged && judge(h))
        return 0;
    if (h->verdict || size > h->size - h->done) {
        if (!h->verdict)
            refuse(h, -EPROTO, true, "the server gave more than was asked for");
        return 0;
    }
    memcpy(h->data + h->done, data, size);
    h->done += size;
    return size;
}

static int look(void *opaque, curl_off_t a, curl_off_t b, curl_off_t c, curl_off_t d)
{
    return atomic_load(&((struct dp_http *)opaque)->stop);
}

/* ---- opening ---- */

static int setup(struct dp_http *h, struct dp_error *e)
{
    const char *authorities = getenv("SSL_CERT_FILE"), *host = strstr(h->url, "://");
    bool tls = !strncmp(h->url, "https://", 8);
    if (!host || (!tls && strncmp(h->url, "http://", 7) != 0))
        return dp_error_set(e, -EINVAL, "disk %s: no disk can be reached by this address", h->url);
    host += 3;
    if (memchr(host, '@', strcspn(host, "/?#")))
        return dp_error_set(e, -EINVAL, "disk address with a name or password: put those into ~/.netrc, addresses are shown to others");
    for (const char *p = h->url; *p; p++)
        if ((uint8_t)*p <= ' ')
            return dp_error_set(e, -EINVAL, "disk %s: a space in an address is written %%20", h->url);
    if (!(h->curl = curl_easy_init()) || !(h->headers = curl_slist_append(NULL, "Accept-Encoding: identity")))
        return dp_error_set(e, -ENOMEM, "disk %s: out of memory", h->url);
    CURL *c = h->curl;
    CURLcode bad = curl_easy_setopt(c, CURLOPT_PROTOCOLS_STR, tls ? "https" : "http,https");
    bad = bad ? bad : curl_easy_setopt(c, CURLOPT_REDIR_PROTOCOLS_STR, tls ? "https" : "http,https");
    bad = bad ? bad : curl_easy_setopt(c, CURLOPT_HTTPHEADER, h->headers);
    bad = bad ? bad : curl_easy_setopt(c, CURLOPT_WRITEFUNCTION, take_body);
    bad = bad ? bad : curl_easy_setopt(c, CURLOPT_WRITEDATA, h);
    bad = bad ? bad : curl_easy_setopt(c, CURLOPT_HEADERFUNCTION, take_header);
    bad = bad ? bad : curl_easy_setopt(c, CURLOPT_HEADERDATA, h);
    if (bad)
        return dp_error_set(e, -ENOSYS, "disk %s: libcurl cannot do what is needed: %s", h->url, curl_easy_strerror(bad));
    curl_easy_setopt(c, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(c, CURLOPT_ERRORBUFFER, h->message);
    curl_easy_setopt(c, CURLOPT_USERAGENT, "doppel");
    curl_easy_setopt(c, CURLOPT_FOLLOWLOCATION, 1L);
    curl_easy_setopt(c, CURLOPT_MAXREDIRS, (long)REDIRECTS);
    curl_easy_setopt(c, CURLOPT_NETRC, (long)CURL_NETRC_OPTIONAL);
    curl_easy_setopt(c, CURLOPT_CONNECTTIMEOUT, (long)CONNECT_SECONDS);
    curl_easy_setopt(c, CURLOPT_LOW_SPEED_LIMIT, 1L);
    curl_easy_setopt(c, CURLOPT_LOW_SPEED_TIME, (long)STALL_SECONDS);
    curl_easy_setopt(c, CURLOPT_TCP_KEEPALIVE, 1L);
    curl_easy_setopt(c, CURLOPT_BUFFERSIZE, 256L << 10);
    curl_easy_setopt(c, CURLOPT_NOPROGRESS, 0L);
    curl_easy_setopt(c, CURLOPT_XFERINFOFUNCTION, look);
    curl_easy_setopt(c, CURLOPT_XFERINFODATA, h);
    if (authorities && *authorities)
        curl_easy_setopt(c, CURLOPT_CAINFO, authorities);
    return 0;
}

static int make(const char *url, struct dp_http **out, struct dp_error *e)
{
    struct dp_http *h = calloc(1, sizeof *h);
    if (!h || !(h->url = strdup(url))) {
        free(h);
        return dp_error_set(e, -ENOMEM, "disk %s: out of memory", url);
    }
    int rc = setup(h, e);
    if (rc)
        dp_http_close(h);
    else
        *out = h;
    return rc;
}

int dp_http_open(const char *url, struct dp_http **out, struct dp_error *e)
{
    struct dp_http *h = NULL;
    uint8_t first;
    int rc = make(url, &h, e);
    if (!rc && !(rc = dp_http_get(h, 0, 1, &first, e))) {
        h->id = h->reply.id;
        h->known = true;
        *out = h;
    } else {
        dp_http_close(h);
    }
    return rc;
}

int dp_http_clone(const struct dp_http *h, struct dp_http **out, struct dp_error *e)
{
    int rc = make(h->url, out, e);
    if (!rc) {
        (*out)->id = h->id;
        (*out)->known = true;
        (*out)->now = h->now ? strdup(h->now) : NULL;
    }
    return rc;
}

void dp_http_close(struct dp_http *h)
{
    if (!h)
        return;
    curl_easy_cleanup(h->curl);
    curl_slist_free_all(h->headers);
    free(h->url);
    free(h->now);
    free(h);
}

const struct dp_http_identity *dp_http_identity(const struct dp_http *h) { return &h->id; }
void dp_http_stop(struct dp_http *h) { atomic_store(&h->stop, true); }

/* ---- getting ---- */

static int explain(struct dp_http *h, CURLcode code)
{
    int rc = code == CURLE_COULDNT_RESOLVE_HOST                                         ? -EHOSTUNREACH
             : code == CURLE_COULDNT_CONNECT                                            ? -ECONNREFUSED
             : code == CURLE_OPERATION_TIMEDOUT                                         ? -ETIMEDOUT
             : code == CURLE_PEER_FAILED_VERIFICATION || code == CURLE_SSL_CACERT_BADFILE ? -EACCES
             : code == CURLE_OUT_OF_MEMORY                                              ? -ENOMEM
                                                                                        : -EIO;
    h->again = code != CURLE_PEER_FAILED_VERIFICATION && code != CURLE_SSL_CACERT_BADFILE && code != CURLE_TOO_MANY_REDIRECTS &&
               code != CURLE_UNSUPPORTED_PROTOCOL && code != CURLE_URL_MALFORMAT && code != CURLE_OUT_OF_MEMORY;
    return dp_error_set(&h->why, rc, "disk %s: %s%s", h->url, h->message[0] ? h->message : curl_easy_strerror(code),
                        code == CURLE_PEER_FAILED_VERIFICATION ? "; SSL_CERT_FILE may name a file of other authorities to believe" : "");
}

/* One transfer of what is missing. 0: something came (perhaps not all). */
static int transfer(struct dp_http *h)
{
    char range[48], *led = NULL;
    uint64_t before = h->done;
    h->reply = (struct dp_http_reply){0};
    h->judged = h->again = false;
    h->verdict = 0;
    h->message[0] = 0;
    snprintf(range, sizeof range, "%llu-%llu", (unsigned long long)(h->offset + h->done),
             (unsigned long long)(h->offset + h->size - 1));
    if (curl_easy_setopt(h->curl, CURLOPT_URL, h->now ? h->now : h->url) || curl_easy_setopt(h->curl, CURLOPT_RANGE, range))
        return dp_error_set(&h->why, -ENOMEM, "disk %s: out of memory", h->url);
    CURLcode code = curl_easy_perform(h->curl);
    if (atomic_load(&h->stop))
        return dp_error_set(&h->why, -ECANCELED, "disk %s: ended", h->url);
    if (!code && !h->judged) /* an answer without a body */
        judge(h);
    if (h->verdict)
        return h->verdict;
    if (code)
        explain(h, code);
    if (h->done > before) {
        if (!h->now && !curl_easy_getinfo(h->curl, CURLINFO_EFFECTIVE_URL, &led) && led)
            h->now = strdup(led);
        return 0;
    }
    h->again = h->again || !code;
    return code ? h->why.code : dp_error_set(&h->why, -EIO, "disk %s: the server gave nothing", h->url);
}

static int64_t milliseconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000ll + t.tv_nsec / 1000000;
}

/* False: it is to end. */
static bool rest(struct dp_http *h, int64_t ms)
{
    for (int64_t end = milliseconds() + ms; milliseconds() < end && !atomic_load(&h->stop);)
        nanosleep(&(struct timespec){.tv_nsec = 20000000}, NULL);
    return !atomic_load(&h->stop);
}

int dp_http_get(struct dp_http *h, uint64_t offset, uint64_t size, void *data, struct dp_error *e)
{
    int64_t patience = milliseconds() + PATIENCE * 1000, pause = PAUSE_MS;
    h->offset = offset;
    h->size = size;
    h->done = 0;
    h->data = data;
    if (h->stale)
        return dp_error_set(e, -ESTALE, "disk %s: the file on the server has changed: start anew, with a new copy", h->url);
    while (h->done < size) {
        int rc = transfer(h);
        if (!rc) {
            patience = milliseconds() + PATIENCE * 1000;
            pause = PAUSE_MS;
            continue;
        }
        bool moved = h->now && strcmp(h->now, h->url) && rc != -ESTALE && rc != -ECANCELED;
        if (moved) { /* where it once led to may be gone: ask again where it is now */
            free(h->now);
            h->now = NULL;
        }
        if (!moved && (!h->again || (!h->known && !h->done)))
            break;
        if (milliseconds() + pause > patience || !rest(h, pause))
            break;
        pause = DP_MIN(pause * 2, (int64_t)PAUSE_MAX_MS);
    }
    if (h->done == size)
        return 0;
    if (e)
        *e = h->why;
    return h->why.code;
}
