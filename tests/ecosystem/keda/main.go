// Says what KEDA's admission webhook answers to a ScaledObject, beside objects that a cluster has already.
//
// Reads {"incoming": ScaledObject, "existing": [objects]} from its input, and writes {"refused": "why"}, empty if it is taken.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"

	keda "github.com/kedacore/keda/v2/apis/keda/v1alpha1"
	admissionapi "k8s.io/api/admission/v1"
	apps "k8s.io/api/apps/v1"
	autoscaling "k8s.io/api/autoscaling/v2"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/cache/informertest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/metrics/server"
	"sigs.k8s.io/controller-runtime/pkg/webhook/admission"
)

type question struct {
	Incoming keda.ScaledObject `json:"incoming"`
	Existing []json.RawMessage `json:"existing"`
}

func main() {
	if err := run(os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "keda:", err)
		os.Exit(1)
	}
}

func run(input io.Reader, output io.Writer) error {
	var asked question
	if err := json.NewDecoder(input).Decode(&asked); err != nil {
		return fmt.Errorf("input: %w", err)
	}
	types := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{keda.AddToScheme, apps.AddToScheme, autoscaling.AddToScheme} {
		if err := add(types); err != nil {
			return err
		}
	}
	existing, err := known(asked.Existing)
	if err != nil {
		return err
	}
	if err := install(types, existing); err != nil {
		return err
	}
	earnest := false
	request := admission.Request{AdmissionRequest: admissionapi.AdmissionRequest{DryRun: &earnest}}
	ctx := admission.NewContextWithRequest(context.Background(), request)
	refused := ""
	if _, err := (keda.ScaledObjectCustomValidator{}).ValidateCreate(ctx, &asked.Incoming); err != nil {
		refused = err.Error()
	}
	return json.NewEncoder(output).Encode(map[string]string{"refused": refused})
}

// known decodes the objects that the webhook looks at.
func known(objects []json.RawMessage) ([]client.Object, error) {
	var found []client.Object
	for _, object := range objects {
		var kind struct{ Kind string }
		if err := json.Unmarshal(object, &kind); err != nil {
			return nil, err
		}
		var into client.Object
		switch kind.Kind {
		case "Deployment":
			into = &apps.Deployment{}
		case "HorizontalPodAutoscaler":
			into = &autoscaling.HorizontalPodAutoscaler{}
		case "ScaledObject":
			into = &keda.ScaledObject{}
		default:
			continue
		}
		if err := json.Unmarshal(object, into); err != nil {
			return nil, err
		}
		found = append(found, into)
	}
	return found, nil
}

// install has the webhook set itself up as in a cluster, with a client that knows these objects and talks to nobody.
func install(types *runtime.Scheme, existing []client.Object) error {
	mapper := meta.NewDefaultRESTMapper(nil)
	for _, kind := range []schema.GroupVersionKind{
		apps.SchemeGroupVersion.WithKind("Deployment"),
		autoscaling.SchemeGroupVersion.WithKind("HorizontalPodAutoscaler"),
		keda.GroupVersion.WithKind("ScaledObject"),
	} {
		mapper.Add(kind, meta.RESTScopeNamespace)
	}
	target := func(object client.Object) []string {
		switch it := object.(type) {
		case *keda.ScaledObject:
			return []string{it.Spec.ScaleTargetRef.Name}
		case *autoscaling.HorizontalPodAutoscaler:
			return []string{it.Spec.ScaleTargetRef.Name}
		}
		return nil
	}
	cluster := fake.NewClientBuilder().WithScheme(types).WithRESTMapper(mapper).WithObjects(existing...).
		WithIndex(&keda.ScaledObject{}, "spec.scaleTargetRef.name", target).
		WithIndex(&keda.ScaledObject{}, "spec.hpaName", func(object client.Object) []string {
			return []string{"keda-hpa-" + object.GetName()}
		}).
		WithIndex(&autoscaling.HorizontalPodAutoscaler{}, "spec.scaleTargetRef.name", target).
		Build()
	it, err := manager.New(&rest.Config{}, manager.Options{
		Scheme:  types,
		Metrics: server.Options{BindAddress: "0"},
		MapperProvider: func(*rest.Config, *http.Client) (meta.RESTMapper, error) {
			return mapper, nil
		},
		NewClient: func(*rest.Config, client.Options) (client.Client, error) { return cluster, nil },
		NewCache: func(*rest.Config, cache.Options) (cache.Cache, error) {
			return &informertest.FakeInformers{Scheme: types}, nil
		},
	})
	if err != nil {
		return err
	}
	return (&keda.ScaledObject{}).SetupWebhookWithManager(it, false)
}
