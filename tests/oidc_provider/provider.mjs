// A real OpenID provider (npm oidc-provider, OpenID-certified) on loopback, for the tests: node provider.mjs CONFIG
//
// CONFIG is JSON: port; clients (as in OpenID Connect Dynamic Client Registration); users ({name: {groups, …}},
// more claims as they come); ttl ({AccessToken, IdToken, RefreshToken, Session, Grant} in seconds); idTokenClaims
// (false: user-info alone has the claims). The sign-in page is the library's own for development: any password
// does. What the tests turn behind its back: POST /test/users/<name> with JSON sets claims, "gone": true among
// them; POST /test/down with {"down": "/token"} makes what begins so answer 503, "" nothing.
import { generateKeyPairSync } from 'node:crypto';
import { createServer } from 'node:http';

import Provider from 'oidc-provider';

const config = JSON.parse(process.argv[2]);
const issuer = `http://localhost:${config.port}`;
const users = new Map(Object.entries(config.users));
const { privateKey } = generateKeyPairSync('rsa', { modulusLength: 2048 });
let down = '';

const provider = new Provider(issuer, {
  clients: config.clients,
  cookies: { keys: ['only-for-tests'] },
  jwks: { keys: [{ ...privateKey.export({ format: 'jwk' }), use: 'sig', alg: 'RS256', kid: 'first' }] },
  scopes: ['openid', 'email', 'profile', 'groups', 'offline_access'],
  claims: {
    openid: ['sub'],
    email: ['email', 'email_verified'],
    profile: ['name', 'preferred_username', 'groups'],
    groups: ['groups'],
  },
  conformIdTokenClaims: !config.idTokenClaims,
  pkce: { required: () => true },
  features: { backchannelLogout: { enabled: true }, revocation: { enabled: true } },
  issueRefreshToken: async (_ctx, client) => client.grantTypeAllowed('refresh_token'),
  // Refresh tokens outlive the provider's session, as with most providers.
  expiresWithSession: async () => false,
  ttl: { AccessToken: 300, IdToken: 300, RefreshToken: 86400, Session: 86400, Grant: 86400, ...config.ttl },
  findAccount: async (_ctx, id) => {
    const user = users.get(id);
    if (!user || user.gone) return undefined;
    return {
      accountId: id,
      claims: async () => ({
        sub: id,
        email: `${id}@example.com`,
        email_verified: true,
        name: id[0].toUpperCase() + id.slice(1),
        preferred_username: id,
        ...users.get(id),
      }),
    };
  },
  // The organisation's own application: its people are not asked for consent.
  loadExistingGrant: async (ctx) => {
    const { client, session, params } = ctx.oidc;
    const known = session.grantIdFor(client.clientId);
    const grant = (known && (await ctx.oidc.provider.Grant.find(known)))
      || new ctx.oidc.provider.Grant({ clientId: client.clientId, accountId: session.accountId });
    grant.addOIDCScope(params.scope);
    await grant.save();
    return grant;
  },
  // Without the library's guard against loopback addresses, where everything is here.
  fetch: (url, { dispatcher, ...options }) => globalThis.fetch(url, options),
});
provider.on('backchannel.success', (_ctx, client, account) => console.log(`back-channel logout of ${account}`));
provider.on('backchannel.error', (_ctx, error) => console.log(`back-channel logout failed: ${error} ${error.cause}`));
provider.on('server_error', (_ctx, error) => console.log(`failed: ${error.stack}`));
provider.on('authorization.error', (_ctx, error) => console.log(`refused: ${error} ${error.error_description}`));
provider.on('grant.error', (_ctx, error) => console.log(`no tokens: ${error} ${error.error_detail ?? ''}`));
provider.on('grant.success', (ctx) => console.log(`tokens: ${ctx.oidc.params.grant_type}`));

const read = async (request) => {
  const pieces = [];
  for await (const piece of request) pieces.push(piece);
  return JSON.parse(Buffer.concat(pieces).toString() || '{}');
};
const serve = provider.callback();
createServer(async (request, response) => {
  if (request.method === 'POST' && request.url.startsWith('/test/')) {
    const asked = await read(request);
    const name = request.url.split('/')[3];
    if (request.url === '/test/down') down = asked.down;
    else users.set(name, { ...users.get(name), ...asked });
    response.writeHead(204).end();
  } else if (down && request.url.startsWith(down)) response.writeHead(503, { 'content-type': 'text/plain' }).end('down for the test');
  else await serve(request, response);
}).listen(config.port, '127.0.0.1', () => console.log(`ready ${issuer}`));
