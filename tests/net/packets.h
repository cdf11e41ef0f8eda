/* packets.h - packets by hand, for tests: built and checked with sums of their own, slow and plain. */
#ifndef DP_TESTS_PACKETS_H
#define DP_TESTS_PACKETS_H

#include "net/offload.h"

static const uint8_t packet_mac[6] = {0x52, 0x54, 0, 1, 2, 3}, packet_router_mac[6] = {0x52, 0x55, 10, 0, 2, 2};
#define PACKET_GUEST 0x0a00020fu
#define PACKET_HOST 0x0a000202u

static inline void put16(uint8_t *p, unsigned v)
{
    p[0] = v >> 8 & 0xff;
    p[1] = v & 0xff;
}
static inline void put32(uint8_t *p, uint32_t v)
{
    put16(p, v >> 16);
    put16(p + 2, v & 0xffff);
}
static inline unsigned get16(const uint8_t *p) { return p[0] << 8 | p[1]; }
static inline uint32_t get32(const uint8_t *p) { return (uint32_t)get16(p) << 16 | get16(p + 2); }

/* RFC 1071 as it is written. */
static inline uint32_t packet_sum(uint32_t sum, const uint8_t *p, size_t n)
{
    for (size_t i = 0; i < n; i++)
        sum += i & 1 ? p[i] : (uint32_t)p[i] << 8;
    while (sum >> 16)
        sum = (sum & 0xffff) + (sum >> 16);
    return sum;
}

static inline uint32_t packet_pseudo(const uint8_t *ip, bool six, unsigned protocol, uint32_t length)
{
    uint32_t sum = six ? packet_sum(0, ip + 8, 32) : packet_sum(0, ip + 12, 8);
    return sum + protocol + (length >> 16) + (length & 0xffff);
}

static inline uint32_t packet_ethernet(uint8_t *p, const uint8_t *to, unsigned type)
{
    memcpy(p, to, 6);
    memcpy(p + 6, packet_mac, 6);
    put16(p + 12, type);
    return 14;
}

/* Ethernet and IPv4 headers; returns where the transport begins (34). */
static inline uint32_t packet_ip(uint8_t *p, uint32_t from, uint32_t to, unsigned protocol, uint32_t bytes)
{
    packet_ethernet(p, to == 0xffffffff ? (const uint8_t *)"\xff\xff\xff\xff\xff\xff" : packet_router_mac, 0x0800);
    uint8_t *ip = p + 14;
    memset(ip, 0, 20);
    ip[0] = 0x45;
    put16(ip + 2, 20 + bytes);
    put16(ip + 4, 0x1234);
    ip[8] = 64;
    ip[9] = protocol;
    put32(ip + 12, from);
    put32(ip + 16, to);
    put16(ip + 10, ~packet_sum(0, ip, 20));
    return 34;
}

static inline uint32_t packet_udp(uint8_t *p, uint32_t from, unsigned from_port, uint32_t to, unsigned to_port, const void *data,
                                  uint32_t n)
{
    uint8_t *u = p + packet_ip(p, from, to, 17, 8 + n);
    put16(u, from_port);
    put16(u + 2, to_port);
    put16(u + 4, 8 + n);
    put16(u + 6, 0);
    memcpy(u + 8, data, n);
    uint32_t sum = ~packet_sum(packet_pseudo(p + 14, false, 17, 8 + n), u, 8 + n) & 0xffff;
    put16(u + 6, sum ? sum : 0xffff);
    return 42 + n;
}

enum { T_FIN = 1, T_SYN = 2, T_RST = 4, T_PSH = 8, T_ACK = 16, T_CWR = 128 };
/* The checksum is left open, as with TSO. */
static inline uint32_t packet_tcp(uint8_t *p, unsigned from_port, uint32_t to, unsigned to_port, uint32_t sequence, uint32_t ack,
                                  unsigned flags, const void *data, uint32_t n)
{
    uint8_t *t = p + packet_ip(p, PACKET_GUEST, to, 6, 20 + n);
    memset(t, 0, 20);
    put16(t, from_port);
    put16(t + 2, to_port);
    put32(t + 4, sequence);
    put32(t + 8, ack);
    t[12] = 5 << 4;
    t[13] = flags;
    put16(t + 14, 65535);
    memcpy(t + 20, data, n);
    return 54 + n;
}
static inline void packet_tcp_sum(uint8_t *p, uint32_t size)
{
    put16(p + 50, 0);
    put16(p + 50, ~packet_sum(packet_pseudo(p + 14, false, 6, size - 34), p + 34, size - 34));
}

#endif
