/* devices/net/nic_eeprom.c - the 93C46 serial EEPROM behind a card's four bits.
 *
 * Model: while CS is high each rising edge of SK takes one bit of DI: a start bit, two bits of operation, the address, for a write 16
 * of data. A read answers with a 0 at the last bit of the address and then a bit at each edge, on into the next word. Erasing and
 * writing take no time, so DO, asked while CS is high again, says ready.
 * Source: Microchip DS21749, "Instruction set" and section 2.
 */
#include "devices/net/nic.h"

enum { ADDRESS_BITS = 6, OPERATION_BITS = 2 + ADDRESS_BITS };
enum { OP_OTHER, OP_WRITE, OP_READ, OP_ERASE };
enum { OTHER_EWDS, OTHER_WRAL, OTHER_ERAL, OTHER_EWEN }; /* the first two bits of the address */
enum { PHASE_IDLE, PHASE_OPERATION, PHASE_READ, PHASE_WRITE, PHASE_WRITE_ALL, PHASE_OVER, PHASES };
_Static_assert(1 << ADDRESS_BITS == NIC_EEPROM_WORDS, "");

static const struct dp_field eeprom_fields[] = {
    DP_FIELD_ARRAY(struct nic_eeprom_regs, word, 1, DP_KIND_U16, 0, 0),
    DP_FIELD_U16(struct nic_eeprom_regs, shift, 2, 0, 0),
    DP_FIELD_U8(struct nic_eeprom_regs, phase, 3, 0, 7),
    DP_FIELD_U8(struct nic_eeprom_regs, count, 4, 0, 15),
    DP_FIELD_U8(struct nic_eeprom_regs, address, 5, 0, NIC_EEPROM_WORDS - 1),
    DP_FIELD_BOOL(struct nic_eeprom_regs, cs, 6, false),
    DP_FIELD_BOOL(struct nic_eeprom_regs, sk, 7, false),
    DP_FIELD_BOOL(struct nic_eeprom_regs, output, 8, true),
    DP_FIELD_BOOL(struct nic_eeprom_regs, write_enabled, 9, false),
};
const struct dp_state_table nic_eeprom_table = DP_STATE_TABLE(struct nic_eeprom_regs, "93c46", eeprom_fields);

static void store(struct nic_eeprom_regs *p, unsigned address, uint16_t value)
{
    if (p->write_enabled)
        p->word[address] = value;
}

static void store_all(struct nic_eeprom_regs *p, uint16_t value)
{
    for (unsigned i = 0; i < NIC_EEPROM_WORDS; i++)
        store(p, i, value);
}

static void operation(struct nic_eeprom_regs *p)
{
    p->address = p->shift % NIC_EEPROM_WORDS;
    p->count = 0;
    p->phase = PHASE_OVER;
    p->output = true;
    switch (p->shift >> ADDRESS_BITS & 3) {
    case OP_READ:
        p->phase = PHASE_READ;
        p->output = false;
        break;
    case OP_WRITE: p->phase = PHASE_WRITE; break;
    case OP_ERASE: store(p, p->address, 0xffff); break;
    case OP_OTHER:
        switch (p->address >> (ADDRESS_BITS - 2)) {
        case OTHER_EWDS: p->write_enabled = false; break;
        case OTHER_EWEN: p->write_enabled = true; break;
        case OTHER_ERAL: store_all(p, 0xffff); break;
        case OTHER_WRAL: p->phase = PHASE_WRITE_ALL; break;
        }
        break;
    }
    p->shift = 0;
}

static void edge(struct nic_eeprom_regs *p, bool di)
{
    switch (p->phase) {
    case PHASE_IDLE:
        p->shift = p->count = 0;
        p->phase = di ? PHASE_OPERATION : PHASE_IDLE;
        break;
    case PHASE_OPERATION:
        p->shift = (uint16_t)(p->shift << 1 | di);
        if (++p->count >= OPERATION_BITS)
            operation(p);
        break;
    case PHASE_READ:
        p->output = p->word[p->address] >> (15 - p->count) & 1;
        p->count = (p->count + 1) % 16;
        if (!p->count)
            p->address = (p->address + 1) % NIC_EEPROM_WORDS;
        break;
    case PHASE_WRITE:
    case PHASE_WRITE_ALL:
        p->shift = (uint16_t)(p->shift << 1 | di);
        p->count = (p->count + 1) % 16;
        if (p->count)
            break;
        if (p->phase == PHASE_WRITE)
            store(p, p->address, p->shift);
        else
            store_all(p, p->shift);
        p->phase = PHASE_OVER;
        break;
    }
}

void nic_eeprom_lines(struct nic_eeprom_regs *p, bool cs, bool sk, bool di)
{
    if (!cs) {
        p->phase = PHASE_IDLE;
        p->output = true; /* floats; cards pull it up */
    } else if (sk && !p->sk) {
        edge(p, di);
    }
    p->cs = cs;
    p->sk = sk;
}
