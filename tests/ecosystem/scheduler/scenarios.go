package main

import (
	"fmt"

	v1 "k8s.io/api/core/v1"
)

// A scenario is what is done to a cluster on which every workload has its least pods.
type scenario struct {
	name string
	// How many machines that take pods it takes.
	machines int
	play     func(*cluster)
}

func (it scenario) possible(machines []*v1.Node) bool {
	open := 0
	for _, machine := range machines {
		if isOpen(machine) {
			open++
		}
	}
	return open >= it.machines
}

var scenarios = []scenario{
	{"settle", 1, func(*cluster) {}},
	{"grow", 1, func(it *cluster) { it.scale("at the most", most) }},
	{"grow and shrink", 1, func(it *cluster) {
		it.scale("at the most", most)
		it.scale("at the least again", least)
		it.roll("after shrinking")
	}},
	{"roll", 1, func(it *cluster) { it.roll("at the least") }},
	{"roll at the most", 1, func(it *cluster) {
		it.scale("at the most", most)
		it.roll("at the most")
	}},
	{"roll beside a cordoned machine", 2, func(it *cluster) {
		it.scale("at the most", most)
		it.emptied(it.open()[0])
		it.roll("with a machine less")
	}},
	{"drain in turn", 2, drainInTurn},
	{"drain in turn at the most", 2, func(it *cluster) {
		it.scale("at the most", most)
		drainInTurn(it)
	}},
	{"grow while drained", 2, func(it *cluster) {
		it.emptied(it.open()[0])
		it.scale("with a machine less", most)
	}},
	{"two drains at once", 3, func(it *cluster) {
		first, second := it.open()[0], it.open()[1]
		it.drain(first, second)
		it.uncordon(first)
		it.settle("when the first is back")
		it.emptied(second)
	}},
	{"two drains, none back", 4, func(it *cluster) {
		first, second := it.open()[0], it.open()[1]
		it.emptied(first)
		it.emptied(second)
	}},
	{"replace every machine", 1, replaceMachines},
	{"lose a machine", 2, func(it *cluster) {
		it.scale("at the most", most)
		lost := it.open()[0]
		it.lose(lost)
		it.uncordon(lost)
		it.roll("when it is back")
	}},
	{"lose a zone", 2, loseZone},
}

// drainInTurn maintains every machine: empty, then open again before the next.
func drainInTurn(it *cluster) {
	for _, machine := range it.open() {
		it.emptied(machine)
		it.uncordon(machine)
		it.settle("when " + machine + " is back")
	}
}

// replaceMachines is an upgrade of a pool of machines: a new one first, then an old one is drained and goes.
func replaceMachines(it *cluster) {
	for _, name := range it.open() {
		for _, old := range it.machines {
			if old.Name != name {
				continue
			}
			cpu := old.Status.Allocatable[v1.ResourceCPU]
			it.join(machine("new-"+name, old.Labels[v1.LabelTopologyZone], cpu.String()))
			it.emptied(name)
			break
		}
		for _, old := range it.machines {
			if old.Name == name && len(it.on(name)) == 0 {
				it.leave(old)
				break
			}
		}
	}
	it.scale("on new machines", most)
}

// loseZone takes away one of several zones, and brings it back.
func loseZone(it *cluster) {
	zones := map[string][]string{}
	for _, machine := range it.machines {
		if isOpen(machine) {
			zones[machine.Labels[v1.LabelTopologyZone]] = append(zones[machine.Labels[v1.LabelTopologyZone]], machine.Name)
		}
	}
	lost := zones["a"]
	if len(zones) < 2 || len(lost) == 0 {
		return
	}
	it.scale("at the most", most)
	it.lose(lost...)
	for _, machine := range lost {
		it.uncordon(machine)
	}
	it.roll(fmt.Sprintf("when %d machines are back", len(lost)))
}
