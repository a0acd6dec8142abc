#!/usr/bin/env python3
"""All VMs, each time that a line comes in: one line of JSON, name to what vSphere shows.

usage: inventory.py URL USER PASSWORD
"""
import json
import ssl
import sys
from urllib.parse import urlparse

from pyVim.connect import SmartConnect
from pyVmomi import vim, vmodl

PATHS = ["name", "runtime.powerState", "guest.ipAddress", "config.hardware.device"]


def connect(url, user, password):
    where = urlparse(url)
    context = ssl._create_unverified_context()
    return SmartConnect(host=where.hostname, port=where.port, user=user, pwd=password, sslContext=context)


def main():
    look = looker(*sys.argv[1:])
    for _ in sys.stdin:
        try:
            vms = look()
        except Exception as why:
            # An idle connection or session may have been ended.
            print(f"logging in again: {why}", file=sys.stderr)
            look = looker(*sys.argv[1:])
            vms = look()
        print(json.dumps(vms), flush=True)


def looker(url, user, password):
    """A function that gives all VMs."""
    content = connect(url, user, password).RetrieveContent()
    view = content.viewManager.CreateContainerView(content.rootFolder, [vim.VirtualMachine], True)
    query = vmodl.query.PropertyCollector
    spec = query.FilterSpec(
        objectSet=[
            query.ObjectSpec(
                obj=view,
                skip=True,
                selectSet=[query.TraversalSpec(type=vim.view.ContainerView, path="view", skip=False)],
            )
        ],
        propSet=[query.PropertySpec(type=vim.VirtualMachine, pathSet=PATHS)],
    )

    def look():
        vms = {}
        for found in content.propertyCollector.RetrieveContents([spec]):
            props = {p.name: p.val for p in found.propSet}
            devices = props.get("config.hardware.device", [])
            vms[props["name"]] = {
                "powerState": str(props["runtime.powerState"]),
                "ipAddress": props.get("guest.ipAddress"),
                "disks": sorted(d.backing.fileName for d in devices if isinstance(d, vim.vm.device.VirtualDisk)),
            }
        return vms

    return look


if __name__ == "__main__":
    main()
