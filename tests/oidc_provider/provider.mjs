// A real OpenID provider (npm oidc-provider, OpenID-certified) on loopback, for the tests: node provider.mjs CONFIG
//
// CONFIG is JSON: port; clients (as in OpenID Connect Dynamic Client Registration); users ({name: {groups, …}},
// more claims as they come); ttl ({AccessToken, ClientCredentials, IdToken, RefreshToken, Session, Grant, DeviceCode}
// in seconds); idTokenClaims (false: user-info alone has the claims); audiences (the resources, RFC 8707, for which
// access tokens are JWTs, RFC 9068); accessTokenClaims (which of a person's claims those have, none unless said).
// The sign-in page is the library's own for development: any password does, and so are the pages of the device
// grant. What the tests turn behind its back: POST /test/users/<name> with JSON sets claims, "gone": true among
// them; POST /test/down with {"down": "/token"} makes what begins so answer 503, "" nothing; POST /test/keys with
// {"keep": true} signs with a new key from now on, and publishes the old ones too where `keep`; POST /test/sign
// with {header, claims} answers a JWT of just those, signed with the newest key.
import { generateKeyPairSync, sign } from 'node:crypto';
import { createServer } from 'node:http';

import Provider, { errors } from 'oidc-provider';

import { createMemoryAdapter } from '../../node_modules/oidc-provider/lib/adapters/memory_adapter.js';

const config = JSON.parse(process.argv[2]);
const issuer = `http://localhost:${config.port}`;
const users = new Map(Object.entries(config.users));
const audiences = config.audiences ?? [];
const keys = [];
let made = 0;
let down = '';

const newKey = (keep) => {
  const { privateKey } = generateKeyPairSync('rsa', { modulusLength: 2048 });
  if (!keep) keys.length = 0;
  keys.unshift({ kid: made ? `key-${made}` : 'first', privateKey });
  made += 1;
};

const claimsOf = async (id) => ({
  sub: id,
  email: `${id}@example.com`,
  email_verified: true,
  name: id[0].toUpperCase() + id.slice(1),
  preferred_username: id,
  ...users.get(id),
});

// Made anew for new keys; what it has given out is kept outside of it.
const adapter = createMemoryAdapter();
const build = () => new Provider(issuer, {
  adapter,
  clients: config.clients,
  cookies: { keys: ['only-for-tests'] },
  jwks: {
    keys: keys.map(({ kid, privateKey }) => (
      { ...privateKey.export({ format: 'jwk' }), use: 'sig', alg: 'RS256', kid })),
  },
  scopes: ['openid', 'email', 'profile', 'groups', 'offline_access'],
  claims: {
    openid: ['sub'],
    email: ['email', 'email_verified'],
    profile: ['name', 'preferred_username', 'groups'],
    groups: ['groups'],
  },
  conformIdTokenClaims: !config.idTokenClaims,
  pkce: { required: () => true },
  features: {
    backchannelLogout: { enabled: true },
    clientCredentials: { enabled: true },
    deviceFlow: { enabled: true },
    resourceIndicators: {
      enabled: true,
      // A token request that names no resource is for the one that was granted.
      useGrantedResource: async () => true,
      getResourceServerInfo: async (_ctx, resource) => {
        if (!audiences.includes(resource)) throw new errors.InvalidTarget();
        return { audience: resource, scope: 'mlflow', accessTokenFormat: 'jwt', jwt: { sign: { alg: 'RS256' } } };
      },
    },
    revocation: { enabled: true },
  },
  extraTokenClaims: async (_ctx, token) => {
    const known = { ...(token.accountId && (await claimsOf(token.accountId))), ...users.get(token.clientId) };
    return Object.fromEntries((config.accessTokenClaims ?? []).filter((name) => name in known)
      .map((name) => [name, known[name]]));
  },
  issueRefreshToken: async (_ctx, client) => client.grantTypeAllowed('refresh_token'),
  // Refresh tokens outlive the provider's session, as with most providers.
  expiresWithSession: async () => false,
  ttl: {
    AccessToken: 300,
    ClientCredentials: 300,
    DeviceCode: 300,
    IdToken: 300,
    RefreshToken: 86400,
    Session: 86400,
    Grant: 86400,
    ...config.ttl,
  },
  findAccount: async (_ctx, id) => {
    const user = users.get(id);
    if (!user || user.gone) return undefined;
    return { accountId: id, claims: () => claimsOf(id) };
  },
  // The organisation's own application: its people are not asked for consent.
  loadExistingGrant: async (ctx) => {
    const { client, session, params } = ctx.oidc;
    const known = session.grantIdFor(client.clientId);
    const grant = (known && (await ctx.oidc.provider.Grant.find(known)))
      || new ctx.oidc.provider.Grant({ clientId: client.clientId, accountId: session.accountId });
    if (params.scope) grant.addOIDCScope(params.scope);
    for (const audience of audiences) grant.addResourceScope(audience, 'mlflow');
    await grant.save();
    return grant;
  },
  // Without the library's guard against loopback addresses, where everything is here.
  fetch: (url, { dispatcher, ...options }) => globalThis.fetch(url, options),
});

const start = () => {
  const provider = build();
  provider.on('backchannel.success', (_ctx, client, account) => console.log(`back-channel logout of ${account}`));
  provider.on('backchannel.error', (_ctx, error) => console.log(`back-channel logout failed: ${error} ${error.cause}`));
  provider.on('server_error', (_ctx, error) => console.log(`failed: ${error.stack}`));
  provider.on('authorization.error', (_ctx, error) => console.log(`refused: ${error} ${error.error_description}`));
  provider.on('grant.error', (_ctx, error) => console.log(`no tokens: ${error} ${error.error_detail ?? ''}`));
  provider.on('grant.success', (ctx) => {
    console.log(`tokens: ${ctx.oidc.params.grant_type} for ${ctx.oidc.client.clientId}`);
  });
  return provider.callback();
};
newKey(false);
let serve = start();

const base64url = (value) => Buffer.from(JSON.stringify(value)).toString('base64url');
const signed = ({ header, claims }) => {
  const [{ kid, privateKey }] = keys;
  const text = `${base64url({ alg: 'RS256', kid, ...header })}.${base64url(claims)}`;
  return `${text}.${sign('sha256', Buffer.from(text), privateKey).toString('base64url')}`;
};

const read = async (request) => {
  const pieces = [];
  for await (const piece of request) pieces.push(piece);
  return JSON.parse(Buffer.concat(pieces).toString() || '{}');
};
createServer(async (request, response) => {
  if (request.method === 'POST' && request.url.startsWith('/test/')) {
    const asked = await read(request);
    const name = request.url.split('/')[3];
    if (request.url === '/test/sign') {
      response.writeHead(200, { 'content-type': 'text/plain' }).end(signed(asked));
      return;
    }
    if (request.url === '/test/down') down = asked.down;
    else if (request.url === '/test/keys') {
      newKey(asked.keep);
      serve = start();
    } else users.set(name, { ...users.get(name), ...asked });
    response.writeHead(204).end();
  } else if (down && request.url.startsWith(down)) response.writeHead(503, { 'content-type': 'text/plain' }).end('down for the test');
  else await serve(request, response);
}).listen(config.port, '127.0.0.1', () => console.log(`ready ${issuer}`));
