/* devices/pci/south.c - see south.h. */
#include "devices/pci/south.h"

#include "devices/firmware/pm.h"

#define ROUTABLE 0xdef8u /* interrupts that a PIRQ may go to: 3-7, 9-12, 14, 15 */

/* ISA lines that a PIRQ pulls now; lock held. */
static uint16_t wanted(const struct dp_south_pirqs *p)
{
    uint16_t lines = 0;
    for (unsigned n = 0; n < p->count; n++) {
        uint8_t to = p->config[p->route[n]];
        if ((p->level >> n & 1) && !(to & DP_SOUTH_PIRQ_DISABLED) && (ROUTABLE >> (to & 15) & 1))
            lines |= (uint16_t)(1u << (to & 15));
    }
    return lines;
}

void dp_south_pirqs_changed(struct dp_south_pirqs *p)
{
    pthread_mutex_lock(&p->owner->lock);
    p->again = true;
    if (!p->driving) {
        p->driving = true;
        while (p->again) {
            p->again = false;
            uint16_t lines = wanted(p), changed = lines ^ p->driven;
            p->driven = lines;
            pthread_mutex_unlock(&p->owner->lock);
            for (unsigned n = 0; n < DP_SOUTH_IRQS; n++)
                if (changed >> n & 1)
                    dp_irq_set(&p->irq[n], lines >> n & 1);
            pthread_mutex_lock(&p->owner->lock);
        }
        p->driving = false;
    }
    pthread_mutex_unlock(&p->owner->lock);
}

void dp_south_pirq_set(struct dp_south_pirqs *p, unsigned n, bool level)
{
    pthread_mutex_lock(&p->owner->lock);
    p->level = (uint8_t)((p->level & ~(1u << n)) | (unsigned)level << n);
    pthread_mutex_unlock(&p->owner->lock);
    dp_south_pirqs_changed(p);
}

void dp_south_pm_changed(struct dp_south_pm *p)
{
    struct dp_space *ports = p->owner->env->ports;
    pthread_mutex_lock(&p->owner->lock);
    p->again = true;
    while (p->again && !p->busy) {
        uint16_t at = p->where(p->config);
        at = at == DP_ACPI_PM_BASE ? 0 : at; /* there already */
        p->again = false;
        if (at == p->mapped_at)
            break;
        p->busy = true;
        pthread_mutex_unlock(&p->owner->lock);
        const struct dp_window_spec *w = &p->registers->class->windows[DP_ACPI_PM_WINDOW];
        struct dp_error e = {0};
        if (p->mapped_at)
            dp_space_unmap(ports, p->mapping);
        if (at && dp_space_map_window(ports, at, w->size, w->ops, p->registers, DP_PCI_BAR_PRIORITY, &p->mapping, &e)) {
            dp_trace_guest(p->owner->env->trace, "%s: the ACPI registers cannot be at 0x%x: %s", p->owner->id, at, e.text);
            at = 0;
        }
        pthread_mutex_lock(&p->owner->lock);
        p->mapped_at = at;
        p->busy = false;
    }
    pthread_mutex_unlock(&p->owner->lock);
}

void dp_south_pm_fini(struct dp_south_pm *p)
{
    if (p->mapped_at)
        dp_space_unmap(p->owner->env->ports, p->mapping);
}
