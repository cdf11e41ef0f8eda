/* machine/pc_screen.c - what people see of a PC and type into it: its VGA and its virtio-gpu behind one screen, PS/2, USB and virtio input
 * devices behind one keyboard and pointer.
 *
 * Model: the virtio devices are functions of one slot, which is nobody else's on either board. A PC without firmware has no PS/2: with a screen it
 * gets virtio's keyboard and tablet in any case.
 */
#include "devices/pci/pci.h"
#include "devices/virtio/virtio_gpu.h"
#include "devices/virtio/virtio_input.h"
#include "machine/pc_internal.h"

enum { HEADER_TYPE = 0x0e, MULTIFUNCTION = 0x80 };

/* Initialises and plugs a virtio device as the slot's next function. */
static int add_function(struct dp_pc *pc, struct dp_device *d, const char *id, struct dp_error *e)
{
    struct pc_screen *s = &pc->screen;
    struct dp_device *adapter;
    int rc = pc_own_virtio(pc, d, id, &adapter, e);
    if (rc)
        return rc;
    if (!s->functions)
        dp_pci_set_config(dp_virtio_pci_function(adapter), HEADER_TYPE, MULTIFUNCTION, 1);
    return dp_pci_plug_function(dp_pci_host_of(pc->pci), dp_virtio_pci_function(adapter), SLOT_SCREEN, s->functions++, e);
}

int pc_screen_size(struct dp_pc *pc, struct dp_device *d, struct dp_error *e)
{
    char number[16];
    if (!pc->config.screen_width)
        return 0;
    snprintf(number, sizeof number, "%u", pc->config.screen_width);
    int rc = dp_device_set(d, "xres", number, e);
    snprintf(number, sizeof number, "%u", pc->config.screen_height);
    return rc ? rc : dp_device_set(d, "yres", number, e);
}

static int add_gpu(struct dp_pc *pc, struct dp_error *e)
{
    struct dp_device *d = dp_device_alloc(&dp_virtio_gpu_class, "gpu0", &pc->env);
    int rc = d ? pc_screen_size(pc, d, e) : dp_error_set(e, -ENOMEM, "no memory for a device");
    if (rc) {
        dp_device_free(d);
        return rc;
    }
    if ((rc = add_function(pc, d, "gpu0-pci", e)))
        return rc;
    const struct dp_display_source source = dp_virtio_gpu_source(d);
    return dp_display_mux_add(&pc->screen.mux, &source, dp_virtio_gpu_shows, d) ? 0 : dp_error_set(e, -ENOSPC, "too many screens");
}

static int add_input(struct dp_pc *pc, const char *kind, struct dp_error *e)
{
    char id[32], pci_id[32];
    snprintf(id, sizeof id, "%s0", kind);
    snprintf(pci_id, sizeof pci_id, "%s0-pci", kind);
    struct dp_device *d = dp_device_alloc(&dp_virtio_input_class, id, &pc->env);
    int rc = d ? dp_device_set(d, "kind", kind, e) : dp_error_set(e, -ENOMEM, "no memory for a device");
    if (rc) {
        dp_device_free(d);
        return rc;
    }
    if ((rc = add_function(pc, d, pci_id, e)))
        return rc;
    const struct dp_input_route route = dp_virtio_input_route(d);
    return dp_input_router_add(&pc->screen.router, &route) ? 0 : dp_error_set(e, -ENOSPC, "too many input devices");
}

/* ---- what is behind USB, once the guest has configured it ---- */

static void usb_key(void *opaque, unsigned code, bool down) { dp_xhci_key(opaque, code, down); }
static void usb_motion(void *opaque, int dx, int dy, int wheel, unsigned buttons) { dp_xhci_motion(opaque, dx, dy, wheel, buttons); }
static void usb_position(void *opaque, unsigned x, unsigned y, int wheel, unsigned buttons) { dp_xhci_position(opaque, x, y, wheel, buttons); }
static bool usb_keyboard(void *opaque) { return dp_xhci_listens(opaque, DP_USB_KEYBOARD); }
static bool usb_mouse(void *opaque) { return dp_xhci_listens(opaque, DP_USB_MOUSE); }
static bool usb_tablet(void *opaque) { return dp_xhci_listens(opaque, DP_USB_TABLET); }

static int add_usb_input(struct dp_pc *pc, struct dp_error *e)
{
    const struct dp_input_route routes[] = {
        {{.key = usb_key, .opaque = pc->xhci}, usb_keyboard, pc->xhci},
        {{.motion = usb_motion, .opaque = pc->xhci}, usb_mouse, pc->xhci},
        {{.position = usb_position, .opaque = pc->xhci}, usb_tablet, pc->xhci},
    };
    for (unsigned i = 0; i < DP_ARRAY_LEN(routes); i++)
        if (!dp_input_router_add(&pc->screen.router, &routes[i]))
            return dp_error_set(e, -ENOSPC, "too many input devices");
    return 0;
}

void pc_screen_init(struct dp_pc *pc)
{
    dp_display_mux_init(&pc->screen.mux);
    dp_input_router_init(&pc->screen.router);
}

void pc_screen_fini(struct dp_pc *pc)
{
    dp_display_mux_fini(&pc->screen.mux);
    dp_input_router_fini(&pc->screen.router);
}

int pc_screen_create(struct dp_pc *pc, struct dp_error *e)
{
    const struct dp_pc_config *c = &pc->config;
    int rc = 0;
    if (pc->chipset) {
        struct dp_display_source vga;
        const struct dp_input_route ps2 = {.sink = chipset_input(pc)};
        if (chipset_display(pc, &vga) && !dp_display_mux_add(&pc->screen.mux, &vga, NULL, NULL))
            rc = dp_error_set(e, -ENOSPC, "too many screens");
        if (!dp_input_router_add(&pc->screen.router, &ps2))
            rc = dp_error_set(e, -ENOSPC, "too many input devices");
    }
    if (!rc && pc->xhci)
        rc = add_usb_input(pc, e);
    if (!rc && c->virtio_gpu)
        rc = add_gpu(pc, e);
    if (!rc && (c->virtio_input || (c->virtio_gpu && !pc->chipset)) && !(rc = add_input(pc, "keyboard", e)))
        rc = add_input(pc, "tablet", e);
    return rc;
}

bool dp_pc_screen(struct dp_pc *pc, struct dp_display_source *screen, struct dp_input_sink *keys)
{
    if (!pc->screen.mux.count)
        return false;
    *screen = dp_display_mux_source(&pc->screen.mux);
    *keys = dp_input_router_sink(&pc->screen.router);
    return true;
}
