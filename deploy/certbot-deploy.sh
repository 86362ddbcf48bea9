#!/bin/sh
# A deploy hook of certbot: gives the user `uprtc` a copy of what was issued, where tls-cert and tls-key name it. A running
# controlplane notices within 2 s. Install: /etc/letsencrypt/renewal-hooks/deploy/uprtc, mode 755.
set -eu
to=/etc/uprtc/tls
install -d -m 750 -g uprtc "$to"
for file in fullchain.pem privkey.pem; do
    install -m 640 -g uprtc "$RENEWED_LINEAGE/$file" "$to/.$file.new"
done
# Renamed, so that no file is ever read half; between the two the old pair stays in force.
for file in fullchain.pem privkey.pem; do
    mv -f "$to/.$file.new" "$to/$file"
done
