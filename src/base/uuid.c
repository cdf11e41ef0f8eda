/* base/uuid.c - see uuid.h. */
#include "base/uuid.h"

bool dp_uuid_parse(const char *text, uint8_t uuid[16])
{
    unsigned n = 0;
    for (const char *p = text; n < 32; p++) {
        if (p - text == 8 || p - text == 13 || p - text == 18 || p - text == 23) {
            if (*p != '-')
                return false;
            continue;
        }
        int digit = *p >= '0' && *p <= '9' ? *p - '0' : (*p | 32) >= 'a' && (*p | 32) <= 'f' ? (*p | 32) - 'a' + 10 : -1;
        if (digit < 0)
            return false;
        uuid[n / 2] = (uint8_t)(n % 2 ? uuid[n / 2] | digit : digit << 4);
        n++;
    }
    return strlen(text) == 36;
}

void dp_uuid_swap(const uint8_t uuid[16], uint8_t out[16])
{
    static const uint8_t order[16] = {3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15};
    for (unsigned i = 0; i < 16; i++)
        out[i] = uuid[order[i]];
}
