package main

import (
	"fmt"

	"github.com/shopspring/decimal"
	"github.com/spf13/cobra"

	"github.com/keyledger/keyledger/client"
	"github.com/keyledger/keyledger/client/wire"
)

// keysExplain asks for a decision that consumes nothing, and says why it is so.
func keysExplain() *cobra.Command {
	var model, service, agent, cost string
	var tokens int64
	var asJSON *bool
	c := remoteCommand("explain KEY", "Why would a request of this key be let through or refused?", cobra.ExactArgs(1), func(c *cobra.Command, r remote, args []string) error {
		body := client.AdmissionRequest{DryRun: ptr(true), Explain: ptr(true), Model: orNil(model), Service: orNil(service), UserAgent: orNil(agent)}
		estimate, err := estimateOf(tokens, cost)
		if err != nil {
			return err
		}
		body.Estimate = estimate
		id, err := r.find(c.Context(), args[0])
		if err != nil {
			return err
		}
		body.KeyID = &id
		resp, err := r.AdmitWithResponse(c.Context(), body)
		if err != nil {
			return err
		}
		if *asJSON {
			return printJSON(c.OutOrStdout(), resp.Body)
		}
		return printDecision(c, resp.JSON200)
	})
	c.Long = "Asks for a decision that consumes nothing. What a request would not tell, leave out here too."
	c.Example = `  keyledger keys explain alice --model claude-opus-4-1 --service claude --client "claude-cli/1.0.58 (external, cli)"`
	f := c.Flags()
	f.StringVar(&model, "model", "", "model of the request")
	f.StringVar(&service, "service", "", "service of the request")
	f.StringVar(&agent, "client", "", "User-Agent of the request")
	f.Int64Var(&tokens, "tokens", 0, "estimate of its tokens")
	f.StringVar(&cost, "cost", "", "estimate of its cost, USD")
	asJSON = wantsJSON(c)
	return c
}

func estimateOf(tokens int64, cost string) (*client.Estimate, error) {
	var e client.Estimate
	if tokens != 0 {
		e.Tokens = &tokens
	}
	if cost != "" {
		amount, err := decimal.NewFromString(cost)
		if err != nil {
			return nil, usageError{fmt.Errorf("--cost: %q is not an amount", cost)}
		}
		e.CostUsd = &wire.USD{Decimal: amount}
	}
	return &e, nil
}

func printDecision(c *cobra.Command, a *client.AdmissionAnswer) error {
	out := c.OutOrStdout()
	fmt.Fprintf(out, "%s: %s\n", a.Code, a.Message)
	if a.Observed != nil {
		fmt.Fprintf(out, "the key only observes its limits; it would be refused by %s\n", *a.Observed)
	}
	if a.RetryAfterSeconds != nil {
		fmt.Fprintf(out, "try again in %d s\n", *a.RetryAfterSeconds)
	}
	t := newTable(out)
	if a.Explanation != nil {
		for _, check := range *a.Explanation {
			mark := "ok"
			if !check.Passed {
				mark = "NO"
			}
			t.row(mark, check.Check, check.Detail)
		}
	}
	return t.flush()
}
