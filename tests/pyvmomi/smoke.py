"""Logs in to a vSphere with pyvmomi, lists, makes a VM, reads all of it, powers it on and off.

Usage: smoke.py HOST PORT USER PASSWORD
Prints one line per step, and ends with status 1 when a step failed.
"""

import ssl
import sys
import traceback

from pyVim.connect import Disconnect, SmartConnect
from pyVim.task import WaitForTask
from pyVmomi import vim, vmodl

failed = 0


def step(name):
    def run(function):
        global failed
        try:
            result = function()
            print("ok   ", name)
            return result
        except Exception:
            failed += 1
            print("FAIL ", name)
            traceback.print_exc()
            return None

    return run


host, port, user, password = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4]
context = ssl._create_unverified_context()


def connect(secret):
    return SmartConnect(host=host, port=port, user=user, pwd=secret, sslContext=context)


@step("a wrong password is refused")
def _():
    try:
        connect("wrong")
    except vim.fault.InvalidLogin:
        return
    raise AssertionError("logged in")


si = connect(password)
content = si.RetrieveContent()


@step("current session and time")
def _():
    assert content.sessionManager.currentSession.userName == user
    assert si.CurrentTime()


@step("about")
def _():
    assert content.about.apiType in ("HostAgent", "VirtualCenter")


datacenter = content.rootFolder.childEntity[0]


def view_of(kind, where=None):
    view = content.viewManager.CreateContainerView(where or content.rootFolder, [kind], True)
    try:
        return list(view.view)
    finally:
        view.Destroy()


def everything(obj):
    kind = type(obj)
    names = sorted({p.name for c in kind.__mro__ for p in getattr(c, "_propInfo", {}).values()})
    for name in names:
        try:
            getattr(obj, name)
        except vmodl.fault.MethodNotFound as fault:
            # The client itself refuses properties newer than the version that both sides speak.
            if fault.msg is not None:
                raise
    specification = vmodl.query.PropertyCollector.FilterSpec(
        propSet=[vmodl.query.PropertyCollector.PropertySpec(type=kind, all=True)],
        objectSet=[vmodl.query.PropertyCollector.ObjectSpec(obj=obj)],
    )
    got = content.propertyCollector.RetrieveContents([specification])
    assert not got[0].missingSet, got[0].missingSet
    return len(names)


for kind in (
    vim.Datacenter, vim.Folder, vim.ComputeResource, vim.HostSystem, vim.ResourcePool,
    vim.Datastore, vim.Network,
):
    @step("every property of " + kind.__name__)
    def _(kind=kind):
        found = view_of(kind)
        assert found, "none there"
        for obj in found:
            everything(obj)


pool = view_of(vim.ResourcePool)[0]
store = view_of(vim.Datastore)[0]
network = [n for n in view_of(vim.Network) if n.name == "VM Network"][0]


@step("create a VM")
def vm():
    device = vim.vm.device
    scsi = device.ParaVirtualSCSIController(key=-1, busNumber=0, sharedBus="noSharing")
    disk = device.VirtualDisk(
        key=-2, controllerKey=-1, unitNumber=0, capacityInKB=4096,
        backing=device.VirtualDisk.FlatVer2BackingInfo(
            fileName="[%s]" % store.name, diskMode="persistent", thinProvisioned=True),
    )
    nic = device.VirtualVmxnet3(
        key=-3,
        backing=device.VirtualEthernetCard.NetworkBackingInfo(
            deviceName=network.name, network=network),
    )
    serial = device.VirtualSerialPort(
        key=-4, yieldOnPoll=True,
        backing=device.VirtualSerialPort.FileBackingInfo(fileName="serial.log"),
    )
    change = device.VirtualDeviceSpec
    spec = vim.vm.ConfigSpec(
        name="smoke", guestId="otherGuest64", numCPUs=2, memoryMB=64,
        files=vim.vm.FileInfo(vmPathName="[%s]" % store.name),
        extraConfig=[
            vim.option.OptionValue(key="guestinfo.a", value="1|2\n3"),
            vim.option.OptionValue(key="guestinfo.ovfEnv", value="secret"),
        ],
        deviceChange=[
            change(operation="add", device=scsi),
            change(operation="add", fileOperation="create", device=disk),
            change(operation="add", device=nic),
            change(operation="add", device=serial),
        ],
    )
    task = datacenter.vmFolder.CreateVM_Task(spec, pool)
    WaitForTask(task, si=si)
    assert task.info.descriptionId == "Folder.createVm", task.info.descriptionId
    return task.info.result


@step("every property of the VM")
def _():
    assert everything(vm) > 20


@step("devices have the keys that vSphere gives")
def _():
    keys = sorted(d.key for d in vm.config.hardware.device)
    assert keys == [100, 200, 201, 300, 400, 500, 600, 700, 1000, 2000, 4000, 9000, 12000], keys
    mac = [d for d in vm.config.hardware.device if d.key == 4000][0].macAddress
    assert mac.startswith(("00:50:56", "00:0c:29")), mac


@step("extraConfig keeps its values, and the secret one is not shown")
def _():
    extra = {o.key: o.value for o in vm.config.extraConfig}
    assert extra["guestinfo.a"] == "1|2\n3"
    assert "guestinfo.ovfEnv" not in extra


@step("power on")
def _():
    WaitForTask(vm.PowerOnVM_Task(), si=si)
    assert vm.runtime.powerState == "poweredOn"
    assert vm.summary.runtime.powerState == "poweredOn"


@step("powering on again is InvalidPowerState")
def _():
    try:
        WaitForTask(vm.PowerOnVM_Task(), si=si)
    except vim.fault.InvalidPowerState as fault:
        assert fault.existingState == "poweredOn"
        return
    raise AssertionError("no fault")


@step("reconfigure while it runs; a stale changeVersion is refused")
def _():
    old = vm.config.changeVersion
    spec = vim.vm.ConfigSpec(
        changeVersion=old, annotation="note",
        extraConfig=[vim.option.OptionValue(key="guestinfo.a", value=""),
                     vim.option.OptionValue(key="b", value="2")],
    )
    WaitForTask(vm.ReconfigVM_Task(spec), si=si)
    extra = {o.key: o.value for o in vm.config.extraConfig}
    assert "guestinfo.a" not in extra and extra["b"] == "2"
    assert vm.config.annotation == "note" and vm.config.changeVersion != old
    try:
        WaitForTask(vm.ReconfigVM_Task(spec), si=si)
    except vim.fault.ConcurrentAccess:
        return
    raise AssertionError("no fault")


@step("rename, find by path, uuid and child")
def _():
    WaitForTask(vm.Rename_Task("smoke2"), si=si)
    index = content.searchIndex
    assert index.FindByInventoryPath("/%s/vm/smoke2" % datacenter.name) == vm
    assert index.FindByUuid(None, vm.config.uuid, True) == vm
    assert index.FindChild(datacenter.vmFolder, "smoke2") == vm
    assert index.FindByInventoryPath("/none") is None


@step("CheckForUpdates reports a change once")
def _():
    collector = content.propertyCollector.CreatePropertyCollector()
    specification = vmodl.query.PropertyCollector.FilterSpec(
        propSet=[vmodl.query.PropertyCollector.PropertySpec(
            type=vim.VirtualMachine, pathSet=["config.annotation", "name"])],
        objectSet=[vmodl.query.PropertyCollector.ObjectSpec(obj=vm)],
    )
    collector.CreateFilter(specification, False)
    first = collector.CheckForUpdates("")
    assert first.filterSet[0].objectSet[0].kind == "enter"
    assert collector.CheckForUpdates(first.version) is None
    WaitForTask(vm.ReconfigVM_Task(vim.vm.ConfigSpec(annotation="other")), si=si)
    second = collector.CheckForUpdates(first.version)
    changes = second.filterSet[0].objectSet[0].changeSet
    assert [(c.name, c.val) for c in changes] == [("config.annotation", "other")], changes
    collector.Destroy()


@step("a wrong property is InvalidProperty")
def _():
    specification = vmodl.query.PropertyCollector.FilterSpec(
        propSet=[vmodl.query.PropertyCollector.PropertySpec(
            type=vim.VirtualMachine, pathSet=["config.nonsense"])],
        objectSet=[vmodl.query.PropertyCollector.ObjectSpec(obj=vm)],
    )
    try:
        content.propertyCollector.RetrieveContents([specification])
    except vmodl.query.InvalidProperty as fault:
        assert fault.name == "config.nonsense"
        return
    raise AssertionError("no fault")


@step("what is not there is NotSupported")
def _():
    try:
        vm.UpgradeVM_Task()
    except vmodl.fault.NotSupported:
        return
    raise AssertionError("no fault")


@step("power off")
def _():
    WaitForTask(vm.PowerOffVM_Task(), si=si)
    assert vm.runtime.powerState == "poweredOff"


@step("browse the VM's folder")
def _():
    spec = vim.host.DatastoreBrowser.SearchSpec(matchPattern=["*.vmdk"])
    task = store.browser.SearchDatastore_Task("[%s] smoke" % store.name, spec)
    WaitForTask(task, si=si)
    assert [f.path for f in task.info.result.file] == ["smoke.vmdk"], task.info.result


@step("events")
def _():
    events = content.eventManager.QueryEvents(
        vim.event.EventFilterSpec(entity=vim.event.EventFilterSpec.ByEntity(
            entity=vm, recursion="self")))
    kinds = [type(e).__name__.split(".")[-1] for e in events]
    for kind in ("VmCreatedEvent", "VmPoweredOnEvent", "VmPoweredOffEvent"):
        assert kind in kinds, kinds


@step("destroy")
def _():
    WaitForTask(vm.Destroy_Task(), si=si)
    try:
        vm.name
    except vmodl.fault.ManagedObjectNotFound:
        return
    raise AssertionError("still there")


@step("log out")
def _():
    Disconnect(si)


print("failed:", failed)
sys.exit(1 if failed else 0)
