// govls: lists the VMs of a vSphere with govmomi's client, told where it is by the variables that govc reads.
package main

import (
	"context"
	"fmt"
	"log"
	"net/url"
	"os"

	"github.com/vmware/govmomi"
	"github.com/vmware/govmomi/find"
	"github.com/vmware/govmomi/session"
	"github.com/vmware/govmomi/vim25"
	"github.com/vmware/govmomi/vim25/soap"
)

func main() {
	ctx := context.Background()
	u, err := soap.ParseURL(os.Getenv("GOVC_URL"))
	check(err)
	u.User = url.UserPassword(os.Getenv("GOVC_USERNAME"), os.Getenv("GOVC_PASSWORD"))
	transport := soap.NewClient(u, os.Getenv("GOVC_INSECURE") == "true")
	if authorities := os.Getenv("GOVC_TLS_CA_CERTS"); authorities != "" {
		check(transport.SetRootCAs(authorities))
	}
	vim, err := vim25.NewClient(ctx, transport)
	check(err)
	client := &govmomi.Client{Client: vim, SessionManager: session.NewManager(vim)}
	check(client.Login(ctx, u.User))
	defer client.Logout(ctx)
	vms, err := find.NewFinder(vim).VirtualMachineList(ctx, "/ha-datacenter/vm/*")
	check(err)
	for _, vm := range vms {
		fmt.Println(vm.Name())
	}
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
