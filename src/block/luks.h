/* block/luks.h - LUKS version 1: a master key in a header, which passphrases open, and the sectors that it encrypts.
 *
 * Model: the header lies somewhere in a file (a luks image begins with it, a qcow2 image has it in clusters of its own); struct dp_luks is
 * the opened key. Sector n of 512 bytes is AES-XTS with n, little endian, as the tweak ("xts-plain64"); the caller says what n is. Trust:
 * the header may come from anywhere: every field is checked, key material is at most DP_LUKS_BYTES_MAX, and the passphrase is tried with so
 * many iterations in all, no more (dp_luks_limit). Keys are wiped when they are no longer needed. Ciphers: aes-xts-plain64 with keys of 128
 * and 256 bits; hashes: sha1, sha256, sha512. Threads: one at a time.
 * Source: LUKS On-Disk Format Specification 1.2.3 (Fruhwirth); RFC 8018 (PBKDF2); IEEE 1619 (XTS), all by libcrypto.
 */
#ifndef DP_BLOCK_LUKS_H
#define DP_BLOCK_LUKS_H

#include "block/image.h"

enum {
    DP_LUKS_BYTES = 4096 + 8 * 258048, /* what dp_luks_format makes: header and key material; also where the payload begins */
    DP_LUKS_BYTES_MAX = 64 << 20,
    DP_LUKS_ITERATIONS_MAX = 64 << 20, /* of all slots together: some ten seconds */
};

struct dp_luks;

/* The header at `at` of file, which has room bytes there. limit: of iterations, at most and 0 for DP_LUKS_ITERATIONS_MAX. -EACCES: the
 * passphrase opens none of the slots. */
int dp_luks_open(struct dp_image *file, uint64_t at, uint64_t room, const char *secret, uint64_t limit, struct dp_luks **out,
                 struct dp_error *e) DP_MUST_CHECK;
void dp_luks_close(struct dp_luks *l);
/* A new key and header: DP_LUKS_BYTES at `at`, one slot. milliseconds of this processor it takes to try a passphrase; 0: 2000. */
int dp_luks_format(struct dp_image *file, uint64_t at, const char *secret, unsigned milliseconds, struct dp_error *e) DP_MUST_CHECK;
/* Where the payload begins, from the header on: bytes. Opens nothing. */
int dp_luks_payload(struct dp_image *file, uint64_t at, uint64_t *payload, struct dp_error *e) DP_MUST_CHECK;
/* What the header says, by the names that qemu-img uses. */
int dp_luks_info(struct dp_image *file, uint64_t at, struct json_object *o) DP_MUST_CHECK;

/* Bytes at..at + size - 1 of what begins at base of file, whose first sector has number 0. Where a sector is written in part the rest of it
 * is read first. */
int dp_luks_transfer(struct dp_luks *l, struct dp_image *file, uint64_t base, struct dp_cursor *c, bool write, uint64_t at,
                     uint64_t size) DP_MUST_CHECK;

#endif
