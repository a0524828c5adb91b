package controller

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/iomesh/iomesh/api/v1alpha1"
	"github.com/iomesh/iomesh/operator/certs"
	"github.com/iomesh/iomesh/operator/desired"
)

// identity makes the cluster's identity once: its id and its authority, together in one Secret, so that no crash leaves one
// without the other.
func (p *pass) identity(ctx context.Context) error {
	secret, err := p.secret(ctx, v1alpha1.SecretCA)
	if err != nil {
		return err
	}
	if secret == nil {
		if known := p.cluster.Status.ClusterID; known != "" {
			// A new identity would make every disk of this cluster a stranger's.
			p.block("IdentityLost", "the Secret %s is gone, and this cluster (id %s) has disks that belong to it: restore the Secret from a backup",
				v1alpha1.SecretCA, known)
			return nil
		}
		id := p.NewUID()
		data, err := certs.NewAuthority(id)
		if err != nil {
			return err
		}
		secret = &corev1.Secret{
			ObjectMeta: metav1.ObjectMeta{Name: v1alpha1.SecretCA, Namespace: p.cluster.Namespace, Labels: desired.Labels(p.cluster.Name, desired.ComponentMeta),
				OwnerReferences: desired.Owner(p.cluster)},
			Type: corev1.SecretTypeOpaque, Data: data,
		}
		// Create, not apply: if another replica or an older pass was faster, its identity stays.
		if err := p.Client.Create(ctx, secret, client.FieldOwner(v1alpha1.FieldOwnerOperator)); err != nil {
			if apierrors.IsAlreadyExists(err) {
				return &conflictError{err}
			}
			return fmt.Errorf("create secret %s: %w", v1alpha1.SecretCA, err)
		}
		p.log.Info("made the identity of the cluster", "clusterID", id)
	}
	a, err := certs.LoadAuthority(secret)
	if err != nil {
		p.block("IdentityLost", "%v", err)
		return nil
	}
	p.clusterID = a.Cluster()
	p.in.ClusterID = p.clusterID
	if left := a.NotAfter().Sub(p.Now()); left < certs.LeafValidity {
		p.block("AuthorityEnding", "the certificate authority of the cluster ends at %s", a.NotAfter().UTC().Format("2006-01-02"))
	}
	return nil
}

// certificates makes what is missing and renews what is due.
func (p *pass) certificates(ctx context.Context) error {
	secret, err := p.secret(ctx, v1alpha1.SecretCA)
	if err != nil {
		return err
	}
	if secret == nil {
		return &conflictError{fmt.Errorf("secret %s is not in the cache yet", v1alpha1.SecretCA)}
	}
	authority, err := certs.LoadAuthority(secret)
	if err != nil {
		return err
	}
	addresses := make([]string, 0, len(p.members))
	for _, m := range p.members {
		addresses = append(addresses, m.Address)
	}
	for _, w := range certs.Set(addresses) {
		have, err := p.secret(ctx, w.Secret)
		if err != nil {
			return err
		}
		why := certs.WhyIssue(have, authority, w, p.Now())
		if why == "" {
			continue
		}
		data, err := certs.Issue(authority, w)
		if err != nil {
			return err
		}
		s := &corev1.Secret{
			TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Secret"},
			ObjectMeta: metav1.ObjectMeta{Name: w.Secret, Namespace: p.cluster.Namespace, Labels: desired.Labels(p.cluster.Name, string(w.Role)),
				OwnerReferences: desired.Owner(p.cluster)},
			Type: corev1.SecretTypeTLS, Data: data,
		}
		if _, err := p.Applier.Apply(ctx, s); err != nil {
			return err
		}
		p.log.Info("issued a certificate", "secret", w.Secret, "because", why)
		if have != nil {
			p.event(corev1.EventTypeNormal, "CertificateRenewed", "Renew", "made the certificate %s anew: %s", w.Secret, why)
		}
	}
	return nil
}

// secret reads a Secret of the cluster's namespace, nil when there is none.
func (p *pass) secret(ctx context.Context, name string) (*corev1.Secret, error) {
	var s corev1.Secret
	err := p.Client.Get(ctx, client.ObjectKey{Namespace: p.cluster.Namespace, Name: name}, &s)
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("get secret %s: %w", name, err)
	}
	return &s, nil
}
