/* machine/mch.c - see mch.h. */
#include "machine/mch.h"

enum { PCIEXBAR = 0x60, PCIEXBAR_EN = 1, PAM0 = 0x90, SMRAM = 0x9d, ESMRAMC = 0x9e };
#define PCIEXBAR_WRITABLE 0x0000000ffc000007ull
#define LARGEST (256ull << 20)

static void map_ecam(struct mch *m, struct dp_pci_function *f)
{
    struct dp_error e = {0};
    pthread_mutex_lock(&m->lock);
    pthread_mutex_lock(f->lock);
    uint64_t reg = dp_ld64(f->regs->config + PCIEXBAR);
    pthread_mutex_unlock(f->lock);
    unsigned length = reg >> 1 & 3;
    uint64_t size = LARGEST >> length, at = reg & PCIEXBAR_WRITABLE & ~7ull & ~(size - 1);
    if (!(reg & PCIEXBAR_EN) || length == 3 || !at)
        at = size = 0;
    if (at != m->mapped_at || size != m->mapped_size) {
        if (m->mapped_size)
            dp_space_unmap(f->env->memory, m->mapping);
        if (size && dp_space_map_window(f->env->memory, at, size, &dp_pci_ecam_ops, m->host, DP_PCI_BAR_PRIORITY, &m->mapping, &e)) {
            dp_trace_guest(f->env->trace, "mch: configuration space cannot be at 0x%llx: %s", (unsigned long long)at, e.text);
            at = size = 0;
        }
        m->mapped_at = at;
        m->mapped_size = size;
    }
    pthread_mutex_unlock(&m->lock);
}

static void changed(struct dp_pci_function *f)
{
    struct mch *m = f->opaque;
    pam_changed(m->pam);
    map_ecam(m, f);
}

static bool access(struct dp_pci_function *f, unsigned offset, unsigned size, uint32_t *value, bool write)
{
    return pam_locked(((struct mch *)f->opaque)->pam, offset, size, write);
}

void mch_attach(struct mch *m, struct pam *pam, struct dp_device *host)
{
    struct dp_pci_function *f = dp_pci_host_bridge(host);
    m->pam = pam;
    m->host = dp_pci_host_of(host);
    pthread_mutex_init(&m->lock, NULL);
    dp_pci_set_config(f, 0x00, 0x29c08086, 4);
    dp_pci_set_config(f, 0x08, 0x06000002, 4);
    pam_attach(pam, f, PAM0, SMRAM, ESMRAMC);
    dp_pci_set_config(f, ESMRAMC, 0x38, 1); /* the caches' bits are wired to 1 */
    f->write_mask[ESMRAMC] = 0x87;
    dp_st64(f->write_mask + PCIEXBAR, PCIEXBAR_WRITABLE);
    memset(f->write_mask + 0x40, 0xff, 0x20); /* EPBAR, MCHBAR, GGC, DEVEN: kept, mean nothing here */
    memset(f->write_mask + 0x68, 0xff, 8);    /* DMIBAR */
    memset(f->write_mask + 0xa0, 0xff, 0x14); /* TOM, TOUUD, GBSM, BGSM, TSEGMB, TOLUD */
    f->config_access = access;
    f->config_changed = changed;
    f->opaque = m;
    f->watch_first = PCIEXBAR;
    f->watch_last = ESMRAMC;
}

/* The space is gone already, and the mapping with it. */
void mch_fini(struct mch *m)
{
    if (m->pam)
        pthread_mutex_destroy(&m->lock);
}
