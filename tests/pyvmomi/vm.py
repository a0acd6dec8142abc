#!/usr/bin/env python3
"""One vSphere operation on one VM, as an admin's script would do it.

usage: vm.py URL USER PASSWORD VERB VM_NAME_PREFIX [ARGUMENT]
verbs: power-on power-off shutdown reboot rename destroy props read-all
Prints JSON; a vSphere fault is printed as {"fault": type name} with exit code 3.
"""
import json
import ssl
import sys
from urllib.parse import urlparse

from pyVim.connect import SmartConnect, Disconnect
from pyVim.task import WaitForTask
from pyVmomi import vim, vmodl


def connect(url, user, password):
    where = urlparse(url)
    context = ssl._create_unverified_context()
    return SmartConnect(host=where.hostname, port=where.port, user=user, pwd=password, sslContext=context)


def find(content, prefix):
    view = content.viewManager.CreateContainerView(content.rootFolder, [vim.VirtualMachine], True)
    found = []
    try:
        for vm in view.view:
            try:
                name = vm.name
            except vmodl.fault.ManagedObjectNotFound:
                # Other tests remove their containers meanwhile.
                continue
            if name == prefix or name.startswith(prefix + "-"):
                found.append(vm)
    finally:
        view.Destroy()
    if len(found) != 1:
        raise SystemExit(f"{len(found)} VMs are called {prefix}")
    return found[0]


def plain(value):
    """What a test wants to compare: no managed objects, no types."""
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)


def props(vm):
    guest = vm.guest
    return {
        "name": vm.name,
        "powerState": plain(vm.runtime.powerState),
        "ipAddress": guest.ipAddress,
        "hostName": guest.hostName,
        "toolsRunningStatus": guest.toolsRunningStatus,
        "net": [{"mac": n.macAddress, "ip": list(n.ipAddress), "network": n.network} for n in guest.net],
        "extraConfig": {o.key: o.value for o in vm.config.extraConfig},
        "disks": [d.backing.fileName for d in vm.config.hardware.device if isinstance(d, vim.vm.device.VirtualDisk)],
        "changeVersion": vm.config.changeVersion,
        "numCPU": vm.config.hardware.numCPU,
        "memoryMB": vm.config.hardware.memoryMB,
        "cpuLimitMHz": vm.config.cpuAllocation.limit,
        "cpuShares": vm.config.cpuAllocation.shares.shares,
    }


def read_all(vm):
    """Touches every property that the type has; a strict client fails at the first one that is malformed."""
    names = [p.name for p in vm._GetPropertyList()]
    for name in names:
        getattr(vm, name)
    return {"read": len(names)}


def act(vm, verb, argument):
    if verb == "power-on":
        WaitForTask(vm.PowerOnVM_Task())
    elif verb == "power-off":
        WaitForTask(vm.PowerOffVM_Task())
    elif verb == "shutdown":
        vm.ShutdownGuest()
    elif verb == "reboot":
        vm.RebootGuest()
    elif verb == "rename":
        WaitForTask(vm.Rename_Task(argument))
    elif verb == "destroy":
        WaitForTask(vm.Destroy_Task())
    elif verb == "props":
        return props(vm)
    elif verb == "read-all":
        return read_all(vm)
    else:
        raise SystemExit(__doc__)
    return {"done": verb}


def main():
    url, user, password, verb, prefix, *rest = sys.argv[1:]
    service = connect(url, user, password)
    try:
        vm = find(service.RetrieveContent(), prefix)
        print(json.dumps(act(vm, verb, rest[0] if rest else None)))
    except vmodl.MethodFault as fault:
        print(json.dumps({"fault": type(fault).__name__, "message": fault.msg}))
        sys.exit(3)
    finally:
        Disconnect(service)


if __name__ == "__main__":
    main()
