/* base/uuid.h - UUIDs: 16 bytes in the order of their text. Source: RFC 4122 section 3. */
#ifndef DP_UUID_H
#define DP_UUID_H

#include "base/base.h"

/* "12345678-9abc-def0-1234-56789abcdef0"; false: it is none. */
bool dp_uuid_parse(const char *text, uint8_t uuid[16]);
/* As SMBIOS and Microsoft have them in memory: the first three fields little-endian. */
void dp_uuid_swap(const uint8_t uuid[16], uint8_t out[16]);

#endif
