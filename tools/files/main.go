// Command files reads what cannot be run here by the reader of the program that it is for, and
// fails at the first thing that one would refuse: docker-compose.yml by compose-go, the
// Dockerfile by BuildKit's parser, workflows by actionlint, the dashboard by Grafana's own model,
// which refuses what it does not know, Kubernetes' manifests likewise by its own types. It is run in the project's root, by make check.
package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/compose-spec/compose-go/v2/cli"
	"github.com/grafana/grafana-foundation-sdk/go/cog/plugins"
	"github.com/grafana/grafana-foundation-sdk/go/dashboard"
	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/rhysd/actionlint"
	apps "k8s.io/api/apps/v1"
	batch "k8s.io/api/batch/v1"
	core "k8s.io/api/core/v1"
	networking "k8s.io/api/networking/v1"
	policy "k8s.io/api/policy/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"
)

func main() {
	err := errors.Join(compose("docker-compose.yml"), dockerfile("Dockerfile"), grafana("docs/monitoring/grafana.json"),
		kubernetes("docs/deploy/kubernetes.yaml"),
		workflows(".github/workflows/*.yml", "docs/workflows/*.yml"))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// compose loads the file with values for all that it asks for, with every profile, and without
// one value, which it must refuse.
func compose(name string) error {
	load := func(environment ...string) error {
		options, err := cli.NewProjectOptions([]string{name}, cli.WithEnv(environment), cli.WithProfiles([]string{"*"}))
		if err != nil {
			return err
		}
		project, err := options.LoadProject(context.Background())
		if err == nil && len(project.Services) < 4 {
			err = fmt.Errorf("%d services, there should be four", len(project.Services))
		}
		return err
	}
	values := []string{"POSTGRES_PASSWORD=a", "KEYLEDGER_PEPPERS=b", "KEYLEDGER_BOOTSTRAP_TOKEN=c"}
	if err := load(values...); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if load(values[1:]...) == nil {
		return fmt.Errorf("%s: it starts without a password", name)
	}
	return nil
}

// kubernetes reads manifests strictly, each by the type that it says it is of, and holds what they
// refer to among each other together.
func kubernetes(name string) error {
	raw, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	kinds := map[string]any{
		"batch/v1 Job": &batch.Job{}, "apps/v1 Deployment": &apps.Deployment{}, "v1 Service": &core.Service{},
		"policy/v1 PodDisruptionBudget": &policy.PodDisruptionBudget{}, "networking.k8s.io/v1 NetworkPolicy": &networking.NetworkPolicy{},
	}
	seen := map[string]bool{}
	for i, one := range bytes.Split(raw, []byte("\n---\n")) {
		var of meta.TypeMeta
		if err := yaml.Unmarshal(one, &of); err != nil {
			return fmt.Errorf("%s, document %d: %w", name, i, err)
		}
		kind := of.APIVersion + " " + of.Kind
		into, known := kinds[kind]
		if !known || seen[kind] {
			return fmt.Errorf("%s, document %d: %s is not expected", name, i, kind)
		}
		seen[kind] = true
		if err := yaml.UnmarshalStrict(one, into); err != nil {
			return fmt.Errorf("%s, %s: %w", name, kind, err)
		}
	}
	if len(seen) != len(kinds) {
		return fmt.Errorf("%s has %d of %d kinds", name, len(seen), len(kinds))
	}
	labels, ports := kinds["apps/v1 Deployment"].(*apps.Deployment).Spec.Template.Labels, map[string]bool{}
	for _, p := range kinds["apps/v1 Deployment"].(*apps.Deployment).Spec.Template.Spec.Containers[0].Ports {
		ports[p.Name] = true
	}
	service := kinds["v1 Service"].(*core.Service)
	if service.Spec.Selector["app"] != labels["app"] || kinds["policy/v1 PodDisruptionBudget"].(*policy.PodDisruptionBudget).Spec.Selector.MatchLabels["app"] != labels["app"] {
		return fmt.Errorf("%s: the selectors do not select the pods", name)
	}
	for _, p := range service.Spec.Ports {
		if !ports[p.TargetPort.StrVal] {
			return fmt.Errorf("%s: the service's port %s leads nowhere", name, p.Name)
		}
	}
	return nil
}

func dockerfile(name string) error {
	raw, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	parsed, err := parser.Parse(bytes.NewReader(raw))
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if len(parsed.Warnings) > 0 {
		return fmt.Errorf("%s: %s", name, parsed.Warnings[0].Short)
	}
	stages, _, err := instructions.Parse(parsed.AST, nil)
	if err == nil && len(stages) != 2 {
		err = fmt.Errorf("%d stages, there should be two", len(stages))
	}
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

func grafana(name string) error {
	raw, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	plugins.RegisterDefaultPlugins() // panels and queries are of plug-ins
	var board dashboard.Dashboard
	// Its list of errors is an error even when it is empty.
	if err := board.UnmarshalJSONStrict(raw); err != nil && err.Error() != "" {
		return fmt.Errorf("%s: %w", name, err)
	}
	if err := board.Validate(); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

func workflows(patterns ...string) error {
	var files []string
	for _, pattern := range patterns {
		found, err := filepath.Glob(pattern)
		if err != nil {
			return err
		}
		files = append(files, found...)
	}
	if len(files) == 0 {
		return errors.New("there are no workflows")
	}
	linter, err := actionlint.NewLinter(os.Stderr, &actionlint.LinterOptions{})
	if err != nil {
		return err
	}
	found, err := linter.LintFiles(files, nil)
	if err != nil {
		return err
	}
	if len(found) > 0 {
		return fmt.Errorf("actionlint has %d findings", len(found))
	}
	return nil
}
