package report

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/keyledger/keyledger/db"
	"github.com/keyledger/keyledger/internal/fault"
	"github.com/keyledger/keyledger/internal/field"
)

// FocusColumns are the columns of the view reporting.focus, which are those of FOCUS and,
// beginning with x_, some of our own.
// Source: https://focus.finops.org/focus-specification/
var FocusColumns = []string{
	"BilledCost", "BillingAccountId", "BillingAccountName", "BillingCurrency", "BillingPeriodEnd", "BillingPeriodStart",
	"ChargeCategory", "ChargeClass", "ChargeDescription", "ChargePeriodEnd", "ChargePeriodStart", "ConsumedQuantity",
	"ConsumedUnit", "ContractedCost", "ContractedUnitPrice", "EffectiveCost", "HostProviderName", "InvoiceIssuerName",
	"ListCost", "ListUnitPrice", "PricingCategory", "PricingQuantity", "PricingUnit", "ProviderName",
	"PublisherName", "ServiceCategory", "ServiceName", "ServiceProviderName", "ServiceSubcategory", "SkuId",
	"SkuMeter", "SkuPriceId", "SubAccountId", "SubAccountName", "SubAccountType", "Tags",
	"x_Requests", "x_InputTokens", "x_OutputTokens", "x_CacheReadTokens", "x_CacheWriteTokens", "x_Day",
}

// Focus hands on the rows of the view reporting.focus of some days, both included, as midnights in
// UTC: one for each key, day, model and set of tags, by day and key, each with the texts of
// FocusColumns. The zero key: all of them. begin is called before the first row, with the instant that all
// of them are as of. Fault: Invalid for days in the wrong order.
func (r *Reports) Focus(ctx context.Context, from, to time.Time, keyID uuid.UUID, begin func(asOf time.Time), each func(cells []string) error) error {
	if from.After(to) {
		return fault.Fields(field.Error{Field: "from", Message: "must not be after to"})
	}
	ask := func(q *db.Queries) error {
		_, err := q.ReportFocus(ctx, db.ReportFocusParams{FromDay: from, ToDay: to, KeyID: keyID})
		return err
	}
	err := r.snapshot(ctx, func(reader *db.Reader, asOf time.Time) error {
		begin(asOf)
		return db.Stream(ctx, reader, ask, func(row db.FocusRow) error { return each(row.Cells) })
	})
	if err != nil {
		return fmt.Errorf("reporting in FOCUS: %w", err)
	}
	return nil
}
