/* luks.c - LUKS version 1. Model, bounds, source: luks.h.
 *
 * A slot's key material is the master key split into `stripes` pieces, so that losing any sector loses the key (AFsplit), encrypted with a
 * key that PBKDF2 makes of a passphrase; a digest of the master key says whether it was the right one.
 */
#include <json.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/rand.h>
#include <stdlib.h>
#include <time.h>

#include "block/luks.h"

enum { SECTOR = 512, HEADER = 592, SLOTS = 8, SLOT_AT = 208, SLOT_SIZE = 48, SALT = 32, DIGEST = 20, KEY_MAX = 64, PIECE = 64 << 10 };
enum { STRIPES = 4000, SLOT_BYTES = 258048 /* 4000 keys of 64 bytes, to a multiple of 4 KiB */, ITERATIONS_MIN = 1000 };
static const uint32_t ENABLED = 0x00ac71f3, DISABLED = 0x0000dead;

struct slot {
    bool enabled;
    uint32_t iterations, stripes;
    uint64_t at, bytes; /* of the key material, from the header on */
    uint8_t salt[SALT];
};

struct header {
    char cipher[33], mode[33], hash[33], uuid[41];
    uint64_t payload;
    uint32_t key_bytes, iterations;
    uint8_t digest[DIGEST], salt[SALT];
    struct slot slot[SLOTS];
    const EVP_MD *md;
};

struct dp_luks {
    EVP_CIPHER_CTX *encrypt, *decrypt;
    uint8_t *buffer; /* PIECE */
};

static uint32_t be32(const uint8_t *p) { return __builtin_bswap32(dp_ld32(p)); }
static void st32(uint8_t *p, uint32_t v) { dp_st32(p, __builtin_bswap32(v)); }

#define REFUSE(...) dp_error_set(e, -EINVAL, __VA_ARGS__)

/* ---- the header ---- */

static const EVP_MD *digest_named(const char *name)
{
    return !strcmp(name, "sha256") ? EVP_sha256() : !strcmp(name, "sha1") ? EVP_sha1() : !strcmp(name, "sha512") ? EVP_sha512() : NULL;
}

static void parse(const uint8_t *p, struct header *h)
{
    *h = (struct header){.payload = be32(p + 104) * (uint64_t)SECTOR, .key_bytes = be32(p + 108), .iterations = be32(p + 164)};
    memcpy(h->cipher, p + 8, 32);
    memcpy(h->mode, p + 40, 32);
    memcpy(h->hash, p + 72, 32);
    memcpy(h->digest, p + 112, DIGEST);
    memcpy(h->salt, p + 132, SALT);
    memcpy(h->uuid, p + 168, 40);
    for (unsigned n = 0; n < SLOTS; n++) {
        const uint8_t *s = p + SLOT_AT + n * SLOT_SIZE;
        h->slot[n] = (struct slot){
            .enabled = be32(s) == ENABLED, .iterations = be32(s + 4), .at = be32(s + 40) * (uint64_t)SECTOR, .stripes = be32(s + 44)};
        memcpy(h->slot[n].salt, s + 8, SALT);
    }
}

/* Nothing that a terminal would obey. */
static void make_printable(char *text)
{
    for (char *p = text; *p; p++)
        if (*p < ' ' || *p > '~')
            *p = '?';
}

static int check(const struct dp_image *file, struct header *h, uint64_t room, struct dp_error *e)
{
    make_printable(h->cipher);
    make_printable(h->mode);
    make_printable(h->hash);
    make_printable(h->uuid);
    if (strcmp(h->cipher, "aes") || strcmp(h->mode, "xts-plain64") || (h->key_bytes != 32 && h->key_bytes != 64))
        return REFUSE("disk %s is encrypted by %s-%s with %u bits, which is not known here (aes-xts-plain64 is); convert it with qemu-img",
                      file->name, h->cipher, h->mode, h->key_bytes * 8);
    if (!(h->md = digest_named(h->hash)))
        return REFUSE("disk %s: hash %s is not known here (sha256, sha1 and sha512 are); convert it with qemu-img", file->name, h->hash);
    for (unsigned n = 0; n < SLOTS; n++) {
        struct slot *s = &h->slot[n];
        if (!s->enabled)
            continue;
        s->bytes = (uint64_t)s->stripes * h->key_bytes;
        if (!s->stripes || !s->iterations || s->bytes > (uint64_t)DP_LUKS_BYTES_MAX || s->at < HEADER || s->at > room ||
            DP_ALIGN_UP(s->bytes, SECTOR) > room - s->at)
            return REFUSE("disk %s is damaged: slot %u of its LUKS header cannot be", file->name, n);
    }
    return h->iterations ? 0 : REFUSE("disk %s is damaged: its LUKS header cannot be", file->name);
}

static int read_header(struct dp_image *file, uint64_t at, struct header *h, struct dp_error *e)
{
    uint8_t bytes[HEADER] = {0};
    int rc = dp_image_pread(file, bytes, HEADER, at);
    if (rc)
        return dp_error_set(e, rc, "disk %s cannot be read: %s", file->name, strerror(-rc));
    if (memcmp(bytes, "LUKS\xba\xbe", 6))
        return REFUSE("disk %s has no LUKS header where it should be", file->name);
    if (bytes[6] || bytes[7] != 1)
        return REFUSE("disk %s has a LUKS header of version %u; version 1 is known here", file->name, bytes[6] << 8 | bytes[7]);
    parse(bytes, h);
    return 0;
}

int dp_luks_payload(struct dp_image *file, uint64_t at, uint64_t *payload, struct dp_error *e)
{
    struct header h;
    int rc = read_header(file, at, &h, e);
    *payload = rc ? 0 : h.payload;
    return rc;
}

int dp_luks_info(struct dp_image *file, uint64_t at, struct json_object *o)
{
    struct header h;
    struct dp_error ignored = {0};
    int rc = read_header(file, at, &h, &ignored);
    if (rc)
        return rc;
    check(file, &h, UINT64_MAX, &ignored); /* makes it printable: what it says is shown, whatever it is */
    char cipher[50], *dash = strchr(h.mode, '-');
    snprintf(cipher, sizeof cipher, "%s-%u", h.cipher, !strncmp(h.mode, "xts", 3) ? h.key_bytes * 4 : h.key_bytes * 8);
    json_object_object_add(o, "ivgen-alg", json_object_new_string(dash ? dash + 1 : ""));
    json_object_object_add(o, "hash-alg", json_object_new_string(h.hash));
    json_object_object_add(o, "cipher-alg", json_object_new_string(cipher));
    json_object_object_add(o, "uuid", json_object_new_string(h.uuid));
    if (dash)
        *dash = 0;
    json_object_object_add(o, "cipher-mode", json_object_new_string(h.mode));
    struct json_object *slots = json_object_new_array();
    for (unsigned n = 0; n < SLOTS; n++) {
        struct json_object *s = json_object_new_object();
        json_object_object_add(s, "active", json_object_new_boolean(h.slot[n].enabled));
        if (h.slot[n].enabled)
            json_object_object_add(s, "iters", json_object_new_int64(h.slot[n].iterations));
        json_object_object_add(s, "key-offset", json_object_new_int64((int64_t)h.slot[n].at));
        if (h.slot[n].enabled)
            json_object_object_add(s, "stripes", json_object_new_int64(h.slot[n].stripes));
        json_object_array_add(slots, s);
    }
    json_object_object_add(o, "slots", slots);
    json_object_object_add(o, "payload-offset", json_object_new_int64((int64_t)h.payload));
    json_object_object_add(o, "master-key-iters", json_object_new_int64(h.iterations));
    return 0;
}

/* ---- sectors ---- */

static bool crypt_sectors(EVP_CIPHER_CTX *c, uint64_t sector, uint8_t *data, uint64_t bytes)
{
    for (uint64_t at = 0; at < bytes; at += SECTOR, sector++) {
        uint8_t tweak[16] = {0};
        int n;
        dp_st64(tweak, sector);
        if (EVP_CipherInit_ex(c, NULL, NULL, NULL, tweak, -1) != 1 || EVP_CipherUpdate(c, data + at, &n, data + at, SECTOR) != 1)
            return false;
    }
    return true;
}

static EVP_CIPHER_CTX *cipher(const uint8_t *key, uint32_t key_bytes, bool encrypt)
{
    EVP_CIPHER_CTX *c = EVP_CIPHER_CTX_new();
    if (c && EVP_CipherInit_ex(c, key_bytes == 64 ? EVP_aes_256_xts() : EVP_aes_128_xts(), NULL, key, NULL, encrypt) == 1)
        return c;
    EVP_CIPHER_CTX_free(c);
    return NULL;
}

int dp_luks_transfer(struct dp_luks *l, struct dp_image *file, uint64_t base, struct dp_cursor *c, bool write, uint64_t at, uint64_t size)
{
    while (size) {
        uint64_t start = at & ~(uint64_t)(SECTOR - 1), head = at - start, n = DP_MIN(size, PIECE - head);
        uint64_t bytes = DP_ALIGN_UP(head + n, SECTOR);
        int rc = 0;
        if (!write || head || (head + n) % SECTOR) {
            if ((rc = dp_image_pread(file, l->buffer, bytes, base + start)))
                return rc;
            if (!crypt_sectors(l->decrypt, start / SECTOR, l->buffer, bytes))
                return -EIO;
        }
        if (write) {
            dp_cursor_get(c, l->buffer + head, n);
            if (!crypt_sectors(l->encrypt, start / SECTOR, l->buffer, bytes))
                return -EIO;
            rc = dp_image_pwrite(file, l->buffer, bytes, base + start);
        } else {
            dp_cursor_put(c, l->buffer + head, n);
        }
        if (rc)
            return rc;
        at += n;
        size -= n;
    }
    return 0;
}

/* ---- keys ---- */

static bool derive(const EVP_MD *md, const void *secret, size_t length, const uint8_t salt[SALT], uint32_t iterations, uint8_t *out,
                   size_t size)
{
    return iterations <= INT32_MAX && PKCS5_PBKDF2_HMAC(secret, (int)length, salt, SALT, (int)iterations, md, (int)size, out) == 1;
}

/* AFsplit's way of spreading every bit over the key: each piece as long as a digest becomes the digest of its number and itself. */
static bool diffuse(const EVP_MD *md, uint8_t *key, size_t size)
{
    size_t unit = (size_t)EVP_MD_get_size(md);
    EVP_MD_CTX *c = EVP_MD_CTX_new();
    bool ok = c;
    for (size_t at = 0; ok && at < size; at += unit) {
        uint8_t number[4], digest[EVP_MAX_MD_SIZE];
        size_t n = DP_MIN(unit, size - at);
        st32(number, (uint32_t)(at / unit));
        ok = EVP_DigestInit_ex(c, md, NULL) == 1 && EVP_DigestUpdate(c, number, 4) == 1 && EVP_DigestUpdate(c, key + at, n) == 1 &&
             EVP_DigestFinal_ex(c, digest, NULL) == 1;
        memcpy(key + at, digest, n);
        OPENSSL_cleanse(digest, sizeof digest);
    }
    EVP_MD_CTX_free(c);
    return ok;
}

/* All but the last of the stripes together: what the last one is the key xor of. */
static bool collect(const EVP_MD *md, const uint8_t *stripe, uint32_t stripes, uint8_t *out, size_t size)
{
    bool ok = true;
    memset(out, 0, size);
    for (uint32_t n = 0; ok && n + 1 < stripes; n++) {
        for (size_t i = 0; i < size; i++)
            out[i] ^= stripe[n * size + i];
        ok = diffuse(md, out, size);
    }
    return ok;
}

static void xor_last(uint8_t *to, const uint8_t *a, const uint8_t *b, size_t size)
{
    for (size_t i = 0; i < size; i++)
        to[i] = a[i] ^ b[i];
}

static bool is_key(const struct header *h, const uint8_t *key)
{
    uint8_t digest[DIGEST];
    return derive(h->md, key, h->key_bytes, h->salt, h->iterations, digest, DIGEST) && !CRYPTO_memcmp(digest, h->digest, DIGEST);
}

/* Tries a slot. 1: key is the master key; 0: it is not. */
static int try_slot(struct dp_image *file, uint64_t at, const struct header *h, const struct slot *s, const char *secret,
                    uint8_t key[KEY_MAX])
{
    uint64_t bytes = DP_ALIGN_UP(s->bytes, SECTOR);
    uint8_t derived[KEY_MAX], *material = malloc(bytes);
    int rc = material ? dp_image_pread(file, material, bytes, at + s->at) : -ENOMEM;
    if (!rc && !derive(h->md, secret, strlen(secret), s->salt, s->iterations, derived, h->key_bytes))
        rc = -EIO;
    EVP_CIPHER_CTX *c = rc ? NULL : cipher(derived, h->key_bytes, false);
    if (!rc && c && crypt_sectors(c, 0, material, bytes) && collect(h->md, material, s->stripes, key, h->key_bytes)) {
        xor_last(key, key, material + (s->stripes - 1ull) * h->key_bytes, h->key_bytes);
        rc = is_key(h, key);
    }
    EVP_CIPHER_CTX_free(c);
    OPENSSL_cleanse(derived, sizeof derived);
    if (material)
        OPENSSL_cleanse(material, bytes);
    free(material);
    return rc;
}

static int make(const uint8_t *key, uint32_t key_bytes, struct dp_luks **out)
{
    struct dp_luks *l = calloc(1, sizeof *l);
    if (l) {
        l->encrypt = cipher(key, key_bytes, true);
        l->decrypt = cipher(key, key_bytes, false);
        l->buffer = malloc(PIECE);
    }
    if (!l || !l->encrypt || !l->decrypt || !l->buffer) {
        dp_luks_close(l);
        return -ENOMEM;
    }
    *out = l;
    return 0;
}

int dp_luks_open(struct dp_image *file, uint64_t at, uint64_t room, const char *secret, uint64_t limit, struct dp_luks **out,
                 struct dp_error *e)
{
    struct header h;
    uint8_t key[KEY_MAX];
    int rc = read_header(file, at, &h, e);
    if (rc || (rc = check(file, &h, room, e)))
        return rc;
    if (!secret || !*secret)
        return dp_error_set(e, -EACCES, "disk %s is encrypted: give its passphrase with --secret-file FILE (--disk ...,secret=FILE)",
                            file->name);
    limit = limit ? limit : (uint64_t)DP_LUKS_ITERATIONS_MAX;
    int found = 0;
    for (unsigned n = 0; !found && n < SLOTS; n++) {
        uint64_t work = (uint64_t)h.slot[n].iterations + h.iterations;
        if (!h.slot[n].enabled)
            continue;
        if (work > limit)
            return REFUSE("disk %s wants more iterations to try a passphrase than are sensible (%u and %u)", file->name,
                          h.slot[n].iterations, h.iterations);
        limit -= work;
        found = try_slot(file, at, &h, &h.slot[n], secret, key);
    }
    if (found > 0)
        found = make(key, h.key_bytes, out);
    else if (!found)
        found = -EACCES;
    OPENSSL_cleanse(key, sizeof key);
    return !found             ? 0
           : found == -EACCES ? dp_error_set(e, found, "disk %s: this is not its passphrase", file->name)
                              : dp_error_set(e, found, "disk %s cannot be decrypted: %s", file->name, strerror(-found));
}

void dp_luks_close(struct dp_luks *l)
{
    if (!l)
        return;
    EVP_CIPHER_CTX_free(l->encrypt); /* wipes its key */
    EVP_CIPHER_CTX_free(l->decrypt);
    if (l->buffer)
        OPENSSL_cleanse(l->buffer, PIECE);
    free(l->buffer);
    free(l);
}

/* ---- making one ---- */

static double cpu_seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* Iterations that take so many milliseconds of this processor, for size bytes. */
static uint32_t measure(size_t size, unsigned milliseconds)
{
    static const uint8_t salt[SALT];
    uint8_t out[KEY_MAX];
    double took = 0;
    uint32_t n = ITERATIONS_MIN;
    for (; n < 1u << 24; n *= 4) {
        double began = cpu_seconds();
        if (!derive(EVP_sha256(), "measure", 7, salt, n, out, size))
            break;
        if ((took = cpu_seconds() - began) > 0.02)
            break;
    }
    double all = took > 0 ? n * (milliseconds / 1000.0) / took : ITERATIONS_MIN;
    return all < ITERATIONS_MIN ? ITERATIONS_MIN : all > DP_LUKS_ITERATIONS_MAX / 4 ? DP_LUKS_ITERATIONS_MAX / 4 : (uint32_t)all;
}

static void make_uuid(uint8_t *to)
{
    uint8_t r[16];
    char text[41] = "";
    if (RAND_bytes(r, sizeof r) != 1)
        return;
    r[6] = (r[6] & 0x0f) | 0x40;
    r[8] = (r[8] & 0x3f) | 0x80;
    snprintf(text, sizeof text, "%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x", r[0], r[1], r[2], r[3], r[4], r[5],
             r[6], r[7], r[8], r[9], r[10], r[11], r[12], r[13], r[14], r[15]);
    memcpy(to, text, 40);
}

/* all: DP_LUKS_BYTES, zeros. */
static bool fill(uint8_t *all, const char *secret, unsigned milliseconds)
{
    uint8_t key[KEY_MAX], derived[KEY_MAX], *slot = all + SLOT_AT, *material = all + 4096, *last = material + (STRIPES - 1) * KEY_MAX;
    const EVP_MD *md = EVP_sha256();
    uint32_t slot_iterations = measure(KEY_MAX, milliseconds), key_iterations = measure(DIGEST, milliseconds / 8);
    memcpy(all, "LUKS\xba\xbe\0\1", 8);
    strcpy((char *)all + 8, "aes");
    strcpy((char *)all + 40, "xts-plain64");
    strcpy((char *)all + 72, "sha256");
    st32(all + 104, DP_LUKS_BYTES / SECTOR);
    st32(all + 108, KEY_MAX);
    st32(all + 164, key_iterations);
    make_uuid(all + 168);
    for (unsigned n = 0; n < SLOTS; n++) {
        st32(slot + n * SLOT_SIZE, n ? DISABLED : ENABLED);
        st32(slot + n * SLOT_SIZE + 4, n ? 0 : slot_iterations);
        st32(slot + n * SLOT_SIZE + 40, (4096 + n * SLOT_BYTES) / SECTOR);
        st32(slot + n * SLOT_SIZE + 44, STRIPES);
    }
    bool ok =
        RAND_priv_bytes(key, KEY_MAX) == 1 && RAND_bytes(all + 132, SALT) == 1 && RAND_bytes(slot + 8, SALT) == 1 &&
        RAND_priv_bytes(material, (STRIPES - 1) * KEY_MAX) == 1 && derive(md, key, KEY_MAX, all + 132, key_iterations, all + 112, DIGEST) &&
        derive(md, secret, strlen(secret), slot + 8, slot_iterations, derived, KEY_MAX) && collect(md, material, STRIPES, last, KEY_MAX);
    if (ok)
        xor_last(last, last, key, KEY_MAX);
    EVP_CIPHER_CTX *c = ok ? cipher(derived, KEY_MAX, true) : NULL;
    ok = c && crypt_sectors(c, 0, material, DP_ALIGN_UP(STRIPES * KEY_MAX, SECTOR));
    EVP_CIPHER_CTX_free(c);
    OPENSSL_cleanse(key, sizeof key);
    OPENSSL_cleanse(derived, sizeof derived);
    return ok;
}

int dp_luks_format(struct dp_image *file, uint64_t at, const char *secret, unsigned milliseconds, struct dp_error *e)
{
    if (!secret || !*secret)
        return REFUSE("%s is to be encrypted: give its passphrase with --secret-file FILE", file->name);
    uint8_t *all = calloc(1, DP_LUKS_BYTES);
    int rc = all ? 0 : -ENOMEM;
    if (!rc && !fill(all, secret, milliseconds ? milliseconds : 2000))
        rc = -EIO;
    if (!rc)
        rc = dp_image_pwrite(file, all, DP_LUKS_BYTES, at);
    if (all)
        OPENSSL_cleanse(all, DP_LUKS_BYTES);
    free(all);
    return rc ? dp_error_set(e, rc, "%s: its LUKS header cannot be written: %s", file->name, strerror(-rc)) : 0;
}
