"""Lets cloud-init's own data sources read what a workload hears of itself, and prints it as JSON.

Usage: read.py OpenStack|Ec2. The module `cloudinit` must be importable (Debian's package cloud-init).
"""

import importlib
import json
import logging
import sys
import tempfile

from cloudinit import distros, helpers, settings, util
from cloudinit.sources.helpers import openstack

logging.basicConfig(level=logging.WARNING, stream=sys.stderr)
# Nobody resolves names here: to look whether one that is none resolves costs seconds.
util._DNS_REDIRECT_IP = set()
name = sys.argv[1]
module = importlib.import_module(f"cloudinit.sources.DataSource{name}")

with tempfile.TemporaryDirectory() as folder:
    paths = helpers.Paths({"cloud_dir": folder, "run_dir": folder})
    config = dict(settings.CFG_BUILTIN)
    # Seconds, not the minutes that a machine waits at its start.
    config["datasource"] = {name: {"max_wait": 10, "timeout": 5, "retries": 1}}
    distro = distros.fetch("debian")("debian", {}, paths)
    if name == "Ec2":
        source = module.DataSourceEc2(config, distro, paths)
        # A generic cloud of EC2's form, as by its `ds-identify` verdict; its network is not set up by this.
        source.perform_dhcp_setup = False
        module.identify_platform = lambda: module.CloudNames.UNKNOWN
        source._cloud_name = module.CloudNames.UNKNOWN
        source.ds_cfg.update({"strict_id": "false"})
    else:
        source = module.DataSourceOpenStack(config, distro, paths)
        # Which hardware this is says nothing here.
        module.detect_openstack = lambda *args, **kwargs: True
        source.ds_detect = lambda: True
    source._get_data() if name == "Ec2" else source.get_data()
    user_data = source.get_userdata_raw() or b""
    if isinstance(user_data, str):
        user_data = user_data.encode()
    hostname = source.get_hostname()
    found = {
        "source": str(source),
        "instance_id": source.get_instance_id(),
        "hostname": getattr(hostname, "hostname", hostname),
        "keys": source.get_public_ssh_keys(),
        "user_data": user_data.decode(),
        "network": getattr(source, "network_json", None),
        "network_config": None,
    }
    if found["network"] in (None, "_unset"):
        found["network"] = None
    else:
        # The mount of /sys that a namespace's command sees is not its own.
        known = {link["ethernet_mac_address"]: "eth0" for link in found["network"]["links"]}
        found["network_config"] = openstack.convert_net_json(found["network"], known_macs=known)
    print(json.dumps(found))
