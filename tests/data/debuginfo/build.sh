#!/bin/sh
# How the files here were made, by gcc 12.2 of Debian 12: sh build.sh
set -e
cd "$(dirname "$0")"
root="$PWD"
flags="-O2 -g -fno-pie -fcf-protection=none -fno-asynchronous-unwind-tables -ffile-prefix-map=$root=/src"
link="-nostdlib -static -no-pie -Wl,-e,begin,-Ttext=0x1000000,--build-id=sha1"
for version in 4 5; do
    gcc $flags -gdwarf-$version $link -o linked$version.elf net/core.c net/other.c
done
gcc $flags -gdwarf-5 -c -o core.o net/core.c
ld -r --build-id=0x1122334455667788990011223344556677889900 -o module.ko core.o
rm core.o
gcc $flags -gdwarf-5 -fno-ipa-ra $link -o held.elf net/held.c
