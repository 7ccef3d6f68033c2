// Places the pods of rendered manifests with kube-scheduler's own code, on many layouts of machines, while they are scaled, rolled and
// drained.
//
// Reads a JSON object of names and lists of Kubernetes objects from its input, and writes a JSON list of what it saw, a Case each. It
// judges nothing: long_scheduler.py says what must hold.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"sort"

	"k8s.io/klog/v2"
)

// A Case is what happened to one set of manifests, on one layout, in one scenario.
type Case struct {
	Manifests string `json:"manifests"`
	Layout    string `json:"layout"`
	Scenario  string `json:"scenario"`
	// Machines that take pods when the scenario begins.
	Machines int `json:"machines"`
	// Pods that found no machine, at any moment.
	Pending []Pending `json:"pending"`
	// Drains and roll-outs that wait for something that never comes.
	Waiting []string `json:"waiting"`
	// Pods of each workload on each machine at the end.
	Placed map[string]map[string]int `json:"placed"`
}

// Pending is a pod without a machine, and which plugins of the scheduler say no.
type Pending struct {
	Workload string   `json:"workload"`
	When     string   `json:"when"`
	Plugins  []string `json:"plugins"`
	Message  string   `json:"message"`
}

func main() {
	klog.InitFlags(nil)
	only := flag.String("layout", "", "only the layout of this name")
	flag.Parse()
	if err := run(os.Stdin, os.Stdout, *only); err != nil {
		fmt.Fprintln(os.Stderr, "scheduler:", err)
		os.Exit(1)
	}
}

func run(input io.Reader, output io.Writer, only string) error {
	var manifests map[string][]json.RawMessage
	if err := json.NewDecoder(input).Decode(&manifests); err != nil {
		return fmt.Errorf("input: %w", err)
	}
	names := make([]string, 0, len(manifests))
	for name := range manifests {
		names = append(names, name)
	}
	sort.Strings(names)
	cases := []Case{}
	for _, name := range names {
		workloads, err := read(manifests[name])
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		for _, layout := range layouts() {
			for _, scenario := range scenarios {
				if only != "" && only != layout.name || !scenario.possible(layout.machines) {
					continue
				}
				seen, err := play(scenario, layout, workloads)
				if err != nil {
					return fmt.Errorf("%s, %s, %s: %w", name, layout.name, scenario.name, err)
				}
				seen.Manifests = name
				cases = append(cases, seen)
			}
		}
	}
	return json.NewEncoder(output).Encode(cases)
}

// play runs one scenario on a cluster of its own.
func play(scenario scenario, layout layout, workloads []workload) (Case, error) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	placer, err := newScheduler(ctx)
	if err != nil {
		return Case{}, err
	}
	it := &cluster{scheduler: placer, pending: []Pending{}, waiting: []string{}}
	for _, each := range layout.machines {
		it.join(each.DeepCopy())
	}
	for index := range workloads {
		copied := workloads[index]
		it.workloads = append(it.workloads, &copied)
	}
	machines := len(it.open())
	it.settle("at first")
	scenario.play(it)
	return Case{
		Layout: layout.name, Scenario: scenario.name, Machines: machines,
		Pending: it.pending, Waiting: it.waiting, Placed: it.placed(),
	}, nil
}
