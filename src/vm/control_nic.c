/* vm/control_nic.c - the control socket's words for network cards that come and go. See vm.h. */
#include <json.h>

#include "net/options.h"
#include "vm/control_internal.h"
#include "vm/vm.h"

static struct json_object *card_json(const struct dp_vm_card *c)
{
    struct json_object *o = json_object_new_object();
    char mac[18];
    snprintf(mac, sizeof mac, "%02x:%02x:%02x:%02x:%02x:%02x", c->mac[0], c->mac[1], c->mac[2], c->mac[3], c->mac[4], c->mac[5]);
    json_object_object_add(o, "nic", json_object_new_string(c->name));
    json_object_object_add(o, "model", json_object_new_string(c->model));
    json_object_object_add(o, "mac", json_object_new_string(mac));
    json_object_object_add(o, "network", json_object_new_string(c->network));
    json_object_object_add(o, "slot", json_object_new_int((int)c->slot));
    json_object_object_add(o, "link", json_object_new_boolean(c->link));
    json_object_object_add(o, "leaving", json_object_new_boolean(c->leaving));
    return o;
}

struct json_object *dp_control_nics(struct dp_vm *vm, const char *const *argument, struct dp_error *e)
{
    struct json_object *o = json_object_new_object(), *nics = json_object_new_array();
    struct dp_vm_card c;
    for (unsigned i = 0; dp_vm_card(vm, i, &c); i++)
        json_object_array_add(nics, card_json(&c));
    json_object_object_add(o, "nics", nics);
    return o;
}

struct json_object *dp_control_nic_add(struct dp_vm *vm, const char *const *argument, struct dp_error *e)
{
    struct dp_vm_nic nic = {0};
    struct dp_vm_card c;
    if (dp_net_parse_nic(argument[0], &nic.net, e) || dp_vm_add_nic(vm, &nic, argument[1], &c, e))
        return NULL;
    return card_json(&c);
}

struct json_object *dp_control_nic_remove(struct dp_vm *vm, const char *const *argument, struct dp_error *e)
{
    bool force = argument[1] && !strcmp(argument[1], "force");
    if (argument[1] && !force) {
        dp_error_set(e, -EINVAL, "\"mode\" is '%.20s': give force, or leave it out", argument[1]);
        return NULL;
    }
    return dp_vm_remove_nic(vm, argument[0], force, e) ? NULL : json_object_new_object();
}
