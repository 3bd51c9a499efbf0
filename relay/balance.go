package relay

import (
	"context"
	"encoding/json"
	"net/http"

	"github.com/shopspring/decimal"

	"github.com/keyledger/keyledger/internal/keyheader"
)

// balancePaths are where programs that show a balance ask for it: cc-switch by its default
// template, and as the service's own API has it.
// Source: https://github.com/farion1231/cc-switch
var balancePaths = map[string]bool{"/user/balance": true, "/v1/usage": true}

// balance is what such programs read; null: there is no limit. Amounts are US dollars.
type balance struct {
	IsValid   bool         `json:"isValid"`
	IsActive  bool         `json:"is_active"`
	PlanName  string       `json:"planName"`
	Total     *json.Number `json:"total"`
	Used      json.Number  `json:"used"`
	Remaining *json.Number `json:"remaining"`
	Balance   *json.Number `json:"balance"`
	Unit      string       `json:"unit"`
	Extra     string       `json:"extra"`
}

// costLimits are the limits that a balance is of, by the names that plans have.
var costLimits = map[string]string{"dailyCost": "daily", "weeklyCost": "weekly", "monthlyCost": "monthly", "totalCost": "total"}

// showBalance answers with what is left of the cost limit that has the least left.
func (r *Relay) showBalance(w http.ResponseWriter, req *http.Request, x *exchange) {
	key := keyheader.Find(req.Header, req.URL.Query())
	ctx, cancel := context.WithTimeout(req.Context(), ledgerTimeout)
	defer cancel()
	d, err := r.c.Ledger.Admit(ctx, Request{APIKey: key, DryRun: true})
	switch {
	case err != nil:
		r.log.ErrorContext(ctx, "asking for a balance", "error", err)
		(&refusal{reason: unavailable, code: "UNAVAILABLE", message: "the key service is not available at the moment"}).write(w, x.service, x.id)
		return
	case !d.Allowed && refused(d).reason == badKey:
		refused(d).write(w, x.service, x.id)
		return
	}
	b := balance{IsValid: true, IsActive: true, PlanName: "unlimited", Used: "0", Unit: "USD"}
	var least *decimal.Decimal
	for _, l := range d.Limits {
		plan, ofCost := costLimits[l.Name]
		left := decimal.Max(decimal.Zero, l.Limit.Sub(l.Used).Sub(l.Reserved))
		if !ofCost || least != nil && left.GreaterThanOrEqual(*least) {
			continue
		}
		least = &left
		total, rest := json.Number(l.Limit.String()), json.Number(left.String())
		b.PlanName, b.Total, b.Used, b.Remaining, b.Balance = plan, &total, json.Number(l.Used.String()), &rest, &rest
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	if err := json.NewEncoder(w).Encode(b); err != nil {
		return // the client has gone
	}
}
