package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/keyledger/keyledger/client"
)

func webhooksCommand() *cobra.Command {
	c := &cobra.Command{Use: "webhooks", Short: "Who is told of reached limits, ends of keys and changes",
		Long: "Speaks to the service at KEYLEDGER_URL with KEYLEDGER_TOKEN."}
	c.AddCommand(webhooksCreate(), webhooksList(), webhooksUpdate(), webhooksTest(), webhooksDeliveries(), webhooksRetry(), webhooksDelete())
	return c
}

// formatHelp says what --format takes.
const formatHelp = "standard, cloudevents, slack, discord, feishu, dingtalk or wecom"

func webhooksCreate() *cobra.Command {
	var address, format string
	var events []string
	var asJSON *bool
	c := remoteCommand("create", "Make a webhook; its secret is shown this once", cobra.NoArgs, func(c *cobra.Command, r remote, _ []string) error {
		resp, err := r.CreateWebhookWithResponse(c.Context(), client.WebhookCreate{URL: address, Events: eventTypes(events), Format: ptr(client.WebhookFormat(format))})
		if err != nil {
			return err
		}
		if *asJSON {
			return printJSON(c.OutOrStdout(), resp.Body)
		}
		fmt.Fprintf(c.ErrOrStderr(), "webhook %s. Deliveries are signed with this secret, shown this once:\n", resp.JSON201.ID)
		fmt.Fprintln(c.OutOrStdout(), resp.JSON201.Secret)
		return nil
	})
	c.Example = "  keyledger webhooks create --url https://hooks.slack.com/services/... --format slack --events key.limit_reached,key.expiring"
	c.Flags().StringVar(&address, "url", "", "where events are sent, http or https (required)")
	c.Flags().StringVar(&format, "format", "standard", formatHelp)
	c.Flags().StringSliceVar(&events, "events", nil, "types of events by comma: key.limit_reached, key.expiring, key.expired, key.created, key.updated, key.deleted, key.rotated, model.unpriced, usage.recorded (required)")
	_ = c.MarkFlagRequired("url")
	_ = c.MarkFlagRequired("events")
	asJSON = wantsJSON(c)
	return c
}

func eventTypes(names []string) []client.EventType {
	types := make([]client.EventType, len(names))
	for i, name := range names {
		types[i] = client.EventType(name)
	}
	return types
}

func webhooksList() *cobra.Command {
	var asJSON *bool
	c := remoteCommand("list", "List webhooks, with what each is still to be told", cobra.NoArgs, func(c *cobra.Command, r remote, _ []string) error {
		resp, err := r.ListWebhooksWithResponse(c.Context())
		if err != nil {
			return err
		}
		if *asJSON {
			return printJSON(c.OutOrStdout(), resp.Body)
		}
		t := newTable(c.OutOrStdout(), "ID", "FORMAT", "STATE", "PENDING", "DEAD", "LAST DELIVERED", "EVENTS", "URL")
		for _, w := range resp.JSON200.Data {
			state := "on"
			if !w.IsActive {
				state = "off"
			}
			if w.DisabledFor != "" {
				state += ": " + w.DisabledFor
			}
			names := make([]string, len(w.Events))
			for i, e := range w.Events {
				names[i] = string(e)
			}
			t.row(w.ID, string(w.Format), state, w.Pending, w.Dead, w.DeliveredAt, names, w.URL)
		}
		return t.flush()
	})
	asJSON = wantsJSON(c)
	return c
}

func webhooksUpdate() *cobra.Command {
	var address, format string
	var events []string
	var active, newSecret bool
	c := remoteCommand("update ID", "Change a webhook, switch it on or off, or give it a new secret", cobra.ExactArgs(1), func(c *cobra.Command, r remote, args []string) error {
		id, err := webhookID(args[0])
		if err != nil {
			return err
		}
		if c.Flags().NFlag() == 0 {
			return usageError{errors.New("nothing is to be changed: name what is")}
		}
		body := client.WebhookUpdate{URL: orNil(address)}
		if format != "" {
			body.Format = ptr(client.WebhookFormat(format))
		}
		if events != nil {
			body.Events = ptr(eventTypes(events))
		}
		if c.Flags().Changed("active") {
			body.IsActive = &active
		}
		if newSecret {
			body.NewSecret = &newSecret
		}
		resp, err := r.UpdateWebhookWithResponse(c.Context(), id, body)
		if err != nil {
			return err
		}
		fmt.Fprintf(c.ErrOrStderr(), "changed webhook %s\n", id)
		if resp.JSON200.Secret != nil {
			fmt.Fprintln(c.OutOrStdout(), *resp.JSON200.Secret)
		}
		return nil
	})
	c.Flags().StringVar(&address, "url", "", "where events are sent")
	c.Flags().StringVar(&format, "format", "", formatHelp)
	c.Flags().StringSliceVar(&events, "events", nil, "types of events by comma")
	c.Flags().BoolVar(&active, "active", true, "false: nothing is sent")
	c.Flags().BoolVar(&newSecret, "new-secret", false, "make a new secret and print it")
	return c
}

func webhookID(text string) (uuid.UUID, error) {
	id, err := uuid.Parse(text)
	if err != nil {
		return id, usageError{fmt.Errorf("%q is not the id of a webhook: keyledger webhooks list shows them", text)}
	}
	return id, nil
}

// testPatience is how long a test waits for its delivery.
const testPatience = 20 * time.Second

func webhooksTest() *cobra.Command {
	return remoteCommand("test ID", "Send a webhook a test and print what came of it", cobra.ExactArgs(1), func(c *cobra.Command, r remote, args []string) error {
		id, err := webhookID(args[0])
		if err != nil {
			return err
		}
		sent, err := r.TestWebhookWithResponse(c.Context(), id)
		if err != nil {
			return err
		}
		found, err := r.awaitDelivery(c.Context(), id, sent.JSON202.EventID)
		switch {
		case err != nil:
			return err
		case found.State == client.DeliveryStateDelivered:
			fmt.Fprintf(c.OutOrStdout(), "delivered, the receiver answered %d\n", found.LastStatus)
			return nil
		case found.LastError != "":
			return fmt.Errorf("not delivered: %s", found.LastError)
		}
		return fmt.Errorf("not delivered within %s", testPatience)
	})
}

// awaitDelivery waits until an event was tried, or for testPatience.
func (r remote) awaitDelivery(ctx context.Context, id, event uuid.UUID) (found client.Delivery, err error) {
	for end := time.Now().Add(testPatience); ; {
		page, err := r.ListDeliveriesWithResponse(ctx, id, &client.ListDeliveriesParams{Limit: ptr(200)})
		if err != nil {
			return found, err
		}
		for _, d := range page.JSON200.Data {
			if d.EventID == event {
				found = d
			}
		}
		if found.State == client.DeliveryStateDelivered || found.LastError != "" || time.Now().After(end) {
			return found, nil
		}
		select {
		case <-ctx.Done():
			return found, ctx.Err()
		case <-time.After(300 * time.Millisecond):
		}
	}
}

func webhooksDeliveries() *cobra.Command {
	var state string
	var asJSON *bool
	c := remoteCommand("deliveries ID", "List what a webhook was told, newest first", cobra.ExactArgs(1), func(c *cobra.Command, r remote, args []string) error {
		id, err := webhookID(args[0])
		if err != nil {
			return err
		}
		params := client.ListDeliveriesParams{Limit: ptr(200)}
		if state != "" {
			params.State = ptr(client.ListDeliveriesParamsState(state))
		}
		resp, err := r.ListDeliveriesWithResponse(c.Context(), id, &params)
		if err != nil {
			return err
		}
		if *asJSON {
			return printJSON(c.OutOrStdout(), resp.Body)
		}
		t := newTable(c.OutOrStdout(), "EVENT", "TYPE", "AT", "STATE", "TRIES", "NEXT", "STATUS", "ERROR")
		for _, d := range resp.JSON200.Data {
			t.row(d.EventID, d.Type, d.At, string(d.State), d.Attempts, d.NextAt, d.LastStatus, d.LastError)
		}
		if resp.JSON200.NextCursor != "" {
			fmt.Fprintln(c.ErrOrStderr(), "these are the newest 200; the API has the others")
		}
		return t.flush()
	})
	c.Flags().StringVar(&state, "state", "", "only pending, delivered or dead")
	asJSON = wantsJSON(c)
	return c
}

func webhooksRetry() *cobra.Command {
	return remoteCommand("retry ID EVENT", "Send a delivery again, whatever became of it", cobra.ExactArgs(2), func(c *cobra.Command, r remote, args []string) error {
		id, err := webhookID(args[0])
		if err != nil {
			return err
		}
		event, err := uuid.Parse(args[1])
		if err != nil {
			return usageError{fmt.Errorf("%q is not the id of an event: keyledger webhooks deliveries shows them", args[1])}
		}
		if _, err := r.RetryDeliveryWithResponse(c.Context(), id, event); err != nil {
			return err
		}
		fmt.Fprintln(c.OutOrStdout(), "it is sent again")
		return nil
	})
}

func webhooksDelete() *cobra.Command {
	return remoteCommand("delete ID", "Remove a webhook with all it was told", cobra.ExactArgs(1), func(c *cobra.Command, r remote, args []string) error {
		id, err := webhookID(args[0])
		if err != nil {
			return err
		}
		if _, err := r.DeleteWebhookWithResponse(c.Context(), id); err != nil {
			return err
		}
		fmt.Fprintf(c.OutOrStdout(), "deleted webhook %s\n", id)
		return nil
	})
}
