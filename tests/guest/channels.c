/* tests/guest/channels.c - `channels IF`: how many pairs of queues a card has and uses; `channels IF N`: uses N (what ethtool -l and -L do).
 * Source: linux/ethtool.h, ETHTOOL_GCHANNELS and SCHANNELS.
 */
#include <linux/ethtool.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

int main(int argc, char **argv)
{
    struct ethtool_channels c = {.cmd = ETHTOOL_GCHANNELS};
    struct ifreq r = {.ifr_data = (void *)&c};
    int s = socket(AF_INET, SOCK_DGRAM, 0);
    if (argc < 2 || s < 0)
        return 2;
    strncpy(r.ifr_name, argv[1], sizeof r.ifr_name - 1);
    if (ioctl(s, SIOCETHTOOL, &r))
        return perror("channels"), 1;
    if (argc < 3)
        return printf("%u of %u\n", c.combined_count, c.max_combined), 0;
    c.cmd = ETHTOOL_SCHANNELS;
    c.combined_count = (unsigned)atoi(argv[2]);
    return ioctl(s, SIOCETHTOOL, &r) ? perror("channels"), 1 : 0;
}
