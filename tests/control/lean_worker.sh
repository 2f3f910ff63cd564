#!/bin/sh
# A worker that does nothing but start and end, as fast as a process can: for tests that need a thousand of them.
# Its standard input is the control channel; the descriptors that come with the attach message are not taken.
[ "$1" != -c ] || exit 0
read -r attach
echo '{"ready":{"routes":[],"redirect_slashes":true}}' >&0
while read -r line; do
    case $line in
        '{"stop":{}}') exit 0 ;;
        '{"ping":{"id":'*) id=${line##*:} && echo "{\"pong\":{\"id\":${id%%\}*},\"tasks\":0}}" >&0 ;;
    esac
done
exit 1
