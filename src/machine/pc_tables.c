/* machine/pc_tables.c - see pc_tables.h. */
#include "machine/pc_tables.h"

#include "base/uuid.h"
#include "devices/firmware/fw_cfg.h"
#include "machine/acpi.h"
#include "machine/smbios.h"

static bool is_set(const uint8_t uuid[16])
{
    static const uint8_t none[16];
    return memcmp(uuid, none, 16) != 0;
}

static int add_smbios(const struct dp_pc_config *c, uint64_t low, uint64_t high, struct dp_device *d, struct dp_error *e)
{
    const struct dp_pc_firmware *f = c->firmware;
    struct dp_smbios_config s = {.model = c->model, .name = f->name, .low = low, .high = high, .uefi = f->variables.size || f->variables_path};
    struct dp_buffer tables;
    uint8_t anchor[DP_SMBIOS_ANCHOR];
    memcpy(s.uuid, f->uuid, sizeof s.uuid);
    int rc = dp_smbios_build(&s, anchor, &tables, e);
    if (rc)
        return rc;
    if (!(rc = dp_fw_cfg_add_file(d, "etc/smbios/smbios-anchor", anchor, sizeof anchor, e)))
        rc = dp_fw_cfg_add_file(d, "etc/smbios/smbios-tables", tables.data, tables.size, e);
    dp_buffer_fini(&tables);
    return rc;
}

static int add_generation(const struct dp_pc_firmware *f, struct dp_device *d, struct dp_error *e)
{
    static uint8_t const nowhere[8];
    uint8_t page[DP_PAGE_SIZE] = {0};
    dp_uuid_swap(f->generation, page + DP_ACPI_VMGENID_OFFSET);
    int rc = dp_fw_cfg_add_file(d, PC_VMGENID_GUID, page, sizeof page, e);
    return rc ? rc : dp_fw_cfg_add_writable(d, PC_VMGENID_ADDRESS, nowhere, sizeof nowhere, e);
}

int pc_tables_add(const struct dp_pc_config *c, uint64_t low, uint64_t high, struct dp_device *d, struct dp_error *e)
{
    const struct dp_pc_firmware *f = c->firmware;
    int rc = add_smbios(c, low, high, d, e);
    if (!rc && is_set(f->uuid))
        rc = dp_fw_cfg_add_bytes(d, DP_FW_CFG_UUID, f->uuid, sizeof f->uuid, e);
    if (!rc && f->vmgenid)
        rc = add_generation(f, d, e);
    for (unsigned i = 0; !rc && i < f->file_count; i++)
        rc = dp_fw_cfg_add_file(d, f->file[i].name, f->file[i].data, f->file[i].size, e);
    return rc;
}
