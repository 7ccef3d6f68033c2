package main

import (
	"fmt"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// A layout is a set of machines.
type layout struct {
	name     string
	machines []*v1.Node
}

// Room for everything at once, even on one machine.
const roomy = "80"

func machine(name, zone, cpu string, changes ...func(*v1.Node)) *v1.Node {
	room := v1.ResourceList{
		v1.ResourceCPU: resource.MustParse(cpu), v1.ResourceMemory: resource.MustParse("256Gi"), v1.ResourcePods: resource.MustParse("110"),
	}
	it := &v1.Node{
		ObjectMeta: meta.ObjectMeta{Name: name, Labels: map[string]string{v1.LabelHostname: name}},
		Status:     v1.NodeStatus{Capacity: room, Allocatable: room},
	}
	if zone != "" {
		it.Labels[v1.LabelTopologyZone] = zone
	}
	for _, change := range changes {
		change(it)
	}
	return it
}

func tainted(key string, effect v1.TaintEffect) func(*v1.Node) {
	return func(machine *v1.Node) {
		machine.Spec.Taints = append(machine.Spec.Taints, v1.Taint{Key: key, Effect: effect})
	}
}

// alike makes machines of one kind, in these zones by turns.
func alike(number int, zones ...string) []*v1.Node {
	var machines []*v1.Node
	for index := range number {
		zone := ""
		if len(zones) > 0 {
			zone = zones[index%len(zones)]
		}
		machines = append(machines, machine(fmt.Sprintf("m%d", index), zone, roomy))
	}
	return machines
}

var controlPlane = tainted("node-role.kubernetes.io/control-plane", v1.TaintEffectNoSchedule)

func layouts() []layout {
	var all []layout
	add := func(name string, machines ...*v1.Node) {
		all = append(all, layout{name: name, machines: machines})
	}
	for number := 1; number <= 10; number++ {
		add(fmt.Sprintf("%d alike", number), alike(number)...)
		if number < 10 {
			add(fmt.Sprintf("%d and a control plane", number), append(alike(number), machine("control", "", roomy, controlPlane))...)
			add(fmt.Sprintf("%d and a cordoned one", number), append(alike(number), machine("cordoned", "", roomy, cordoned))...)
		}
		if number > 2 {
			add(fmt.Sprintf("%d in three zones", number), alike(number, "a", "b", "c")...)
		}
	}
	add("2 in two zones", alike(2, "a", "b")...)
	add("6 in zones of 1, 1 and 4", append(alike(2, "a", "b"),
		machine("c0", "c", roomy), machine("c1", "c", roomy), machine("c2", "c", roomy), machine("c3", "c", roomy))...)
	add("4, one of them without a zone", append(alike(3, "a", "b", "c"), machine("nowhere", "", roomy))...)
	add("6 in three zones, one zone cordoned", append(alike(4, "a", "b"),
		machine("c0", "c", roomy, cordoned), machine("c1", "c", roomy, cordoned))...)
	add("4 and three control planes in zones", append(alike(4, "a", "b", "c"),
		machine("control0", "a", roomy, controlPlane), machine("control1", "b", roomy, controlPlane),
		machine("control2", "c", roomy, controlPlane))...)
	add("4 and one for graphics", append(alike(4), machine("gpu", "", roomy, tainted("nvidia.com/gpu", v1.TaintEffectNoSchedule)))...)
	add("4, one about to be taken away", append(alike(3),
		machine("leaving", "", roomy, tainted("DeletionCandidateOfClusterAutoscaler", v1.TaintEffectPreferNoSchedule)))...)
	add("4, one of them full", append(alike(3), machine("full", "", "100m"))...)
	add("4, three of them small", machine("s0", "", "7"), machine("s1", "", "7"), machine("s2", "", "7"), machine("large", "", roomy))
	add("5, zones of unlike size", machine("s0", "a", "7"), machine("s1", "b", "7"), machine("c0", "c", roomy),
		machine("c1", "c", roomy), machine("c2", "c", roomy))
	return all
}
