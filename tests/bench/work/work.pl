use strict;
my ($x, %count) = (12345);
for (1 .. 60000) {
    $x = ($x * 1103515245 + 12345) & 0x7fffffff;
    $count{"w" . ($x >> 16 & 1023)}++;
}
my $text = join " ", map { "$_=$count{$_}" } sort keys %count;
my $n = 0;
$n += length $1 while $text =~ /w(\d+)=(?=\d*[357])/g;
(my $t = $text) =~ s/(\d)(\d)/$2$1/g;
my @sorted = sort { $count{$b} <=> $count{$a} || $a cmp $b } keys %count;
print "$n @sorted[0..9] ", substr($t, 0, 60), "\n";
