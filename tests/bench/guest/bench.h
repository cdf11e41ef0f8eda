/* bench.h - what the files of the benchmark's guest program share.
 *
 * The program is one static binary, run natively, under QEMU and under each engine of doppel. A test does fixed work and returns a checksum, which must be
 * equal everywhere. main.c runs each in a child process of its own, so that a test that crashes takes no other with it.
 */
#pragma once
#include <stdint.h>

#define NOINLINE __attribute__((noinline))

struct bench_test {
    const char *name;
    const char *kind;           /* what the bars of `bench` group by */
    uint64_t (*run)(void);      /* the timed work */
    const char *(*lacks)(void); /* why it cannot run here, or NULL; NULL function: runs everywhere */
    void (*prepare)(void);      /* not timed; may be NULL */
    const char *const *program; /* argv of a program of the tree, in place of run; its first entries are described in programs.c */
    unsigned flags;
};
enum { BENCH_ONE_CPU = 1 }; /* processes that wait for each other: natively on one processor, as in the guest */

/* Each ends with an entry without a name. */
extern const struct bench_test bench_integer[], bench_float[], bench_vector[], bench_memory[], bench_kernel[], bench_programs[], bench_smp[];

uint64_t bench_random(void);                             /* the same sequence in every test */
uint64_t bench_bits(double);                             /* a double's representation */
uint64_t bench_program(const char *const *description);  /* runs it, returns a checksum of what it wrote */
void bench_warm(const char *const *description);         /* reads the program and its files into the page cache */
extern int bench_self;                                   /* this program, open for execution */
extern int bench_has_tree;                               /* we run inside the tree of Debian programs */
